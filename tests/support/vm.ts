/** Whether virtual machines can be started here. */
import { spawnSync } from "node:child_process";
import { guestProblem } from "../guest/guest.ts";

/** Why not; undefined: they can. */
export function vmProblem(): string | undefined {
  const problem = guestProblem();
  if (problem !== undefined) return problem;
  if (spawnSync("sh", ["-c", "command -v debugfs"]).status !== 0) return "no debugfs: install e2fsprogs";
  return undefined;
}
