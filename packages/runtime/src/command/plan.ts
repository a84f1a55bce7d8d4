/** --plan: every order that would be carried out, with the field that asked for it. */
import { describePlan } from "@berth/kernel";
import type { Planned } from "../context.ts";
import type { CommandContext } from "./context.ts";

export function printPlan({ flags, log, out }: CommandContext, { plan, warnings }: Planned): number {
  for (const warning of warnings) log.warning(warning);
  const lines = describePlan(plan);
  if (flags.boolean("json")) {
    out(`${JSON.stringify(lines)}\n`);
    return 0;
  }
  const width = Math.max(...lines.map(({ because }) => because.length));
  for (const { where, because, words } of lines) out(`${where.padEnd(10)}${because.padEnd(width + 2)}${words}\n`);
  return 0;
}
