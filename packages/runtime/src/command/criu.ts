/** CRIU, which checkpoints and restores (criu.org). */
import { CommandError } from "./failure.ts";
import { runProgram } from "./program.ts";

/** Throws CommandError with CRIU's own reason where it is missing or says that it cannot work here. */
export function checkCriu(): void {
  const { status, stdout, stderr } = runProgram("criu", ["check"]);
  if (status === 0) return;
  const reasons = `${stdout}${stderr}`
    .split("\n")
    .filter((line) => /Error/.test(line))
    .map((line) => line.replace(/^\(?[\d.]*\)?\s*/, ""));
  throw new CommandError(
    `criu cannot work on this machine (criu check): ${reasons.join("; ") || `exit status ${status}`}`,
  );
}
