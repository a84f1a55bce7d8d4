/** run: create and start in one, then its foreground unless detached. */
import type { Plan } from "@berth/kernel";
import type { Command, CommandContext } from "../command/context.ts";
import { hookPlan, runPoststart } from "../command/hooks.ts";
import { decide, place, removal, type Creation } from "../command/creation.ts";

export const command: Command = {
  async run(context) {
    const { flags, states } = context;
    const detached = flags.boolean("detach");
    const creation = await decide(context, false, detached);
    if (flags.boolean("plan")) {
      const { printPlan } = await import("../command/plan.ts");
      return printPlan(context, creation.planned);
    }
    const front = await context.front();
    await place(context, creation, front);
    const { directory, spec } = creation.bundle;
    if (has(spec.hooks?.poststart)) runPoststart(states.read(creation.id), states, front, directory);
    if (!detached) front.attend(flags.boolean("keep") ? { orders: [] } : atTheEnd(context, creation));
    return 0;
  },
};

const has = (hooks: readonly unknown[] | undefined) => hooks !== undefined && hooks.length > 0;

/** bosun stops at the first order that fails: a poststop hook must not keep the rest from being removed, so they come last. */
function atTheEnd(context: CommandContext, creation: Creation): Plan {
  const { orders } = removal(context, creation);
  const record = context.states.read(creation.id);
  return { orders: [...orders, ...hookPlan(record, "poststop", creation.bundle.directory).orders] };
}
