/** run: create and start in one, then its foreground unless detached. */
import type { Command } from "../command/context.ts";
import { decide, make, release, removal } from "../command/creation.ts";

export const command: Command = {
  async run(context) {
    const { flags } = context;
    const detached = flags.boolean("detach");
    const creation = await decide(context, false, detached);
    if (flags.boolean("plan")) {
      const { printPlan } = await import("../command/plan.ts");
      return printPlan(context, creation.planned);
    }
    const front = await context.front();
    release(context, creation, front, make(context, creation, front));
    if (!detached) front.attend(flags.boolean("keep") ? { orders: [] } : removal(context, creation));
    return 0;
  },
};
