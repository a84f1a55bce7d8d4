/** create: the container's process waits at its FIFO, with nobody beside it. */
import type { Command } from "../command/context.ts";
import { decide, place, planBundle } from "../command/creation.ts";

export const command: Command = {
  async run(context) {
    const creation = await decide(context, true, (decided) => planBundle(context, decided, true));
    if (context.flags.boolean("plan")) {
      const { printPlan } = await import("../command/plan.ts");
      return printPlan(context, creation.planned);
    }
    const front = await context.front();
    await place(context, creation, front);
    return 0;
  },
};
