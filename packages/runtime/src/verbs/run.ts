/** run: create and start in one, then its foreground unless detached. */
import type { Command } from "../command/context.ts";
import { runPoststart } from "../command/hooks.ts";
import { awaitAnnouncement } from "../command/notify.ts";
import { atTheEnd, decide, place, planBundle } from "../command/creation.ts";

export const command: Command = {
  async run(context) {
    const { flags, states } = context;
    const detached = flags.boolean("detach");
    const creation = await decide(context, detached, (decided) => planBundle(context, decided, false));
    if (flags.boolean("plan")) {
      const { printPlan } = await import("../command/plan.ts");
      return printPlan(context, creation.planned);
    }
    const front = await context.front();
    // In the foreground the process that the caller started stays its main process.
    const main = detached ? undefined : process.ppid;
    await place(context, creation, front, () => awaitAnnouncement(states, creation.id, front, main));
    const { directory, spec } = creation.bundle;
    if (has(spec.hooks?.poststart)) runPoststart(states.read(creation.id), states, front, directory);
    if (!detached) front.attend(flags.boolean("keep") ? { orders: [] } : atTheEnd(context, creation));
    return 0;
  },
};

const has = (hooks: readonly unknown[] | undefined) => hooks !== undefined && hooks.length > 0;
