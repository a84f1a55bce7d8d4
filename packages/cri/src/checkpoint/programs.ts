/** The programs that checkpoints need on the node: CRIU, and the tar that CRIU itself needs. bosun starts them. */
import type { CriContext } from "../context.ts";
import { precondition } from "../errors.ts";
import { isExecutable } from "../presence.ts";

/** ms; criu check makes processes and namespaces of its own. */
const CHECK_TIMEOUT = 30_000;
const DIRECTORIES = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];
export const SEARCHED = DIRECTORIES.join(":");

/** FailedPrecondition: CRIU is missing, or cannot work here, for its own reason. */
export async function checkCriu({ hand }: CriContext, signal: AbortSignal): Promise<void> {
  await findProgram("criu");
  const { status, stdout, stderr } = await hand.spawn(
    { argv: ["criu", "check"], env: { PATH: SEARCHED } },
    { signal, timeoutMs: CHECK_TIMEOUT },
  );
  if (status === 0) return;
  const said = Buffer.concat([stdout, stderr]).toString("utf8").trim().split("\n");
  const reason = said.findLast((line) => line.includes("Error")) ?? said.at(-1) ?? "";
  throw precondition(`checkpoint needs criu, and "criu check" fails on this node: ${reason}`);
}

/** Its path. FailedPrecondition: it is not installed. */
export async function findProgram(name: string): Promise<string> {
  for (const directory of DIRECTORIES) {
    const path = `${directory}/${name}`;
    if (await isExecutable(path)) return path;
  }
  throw precondition(`checkpoint needs ${name}, which is not installed on this node`);
}

export async function runProgram({ hand }: CriContext, argv: readonly string[], signal: AbortSignal): Promise<void> {
  const { status, stderr } = await hand.spawn(
    { argv, env: { PATH: SEARCHED } },
    { signal, timeoutMs: PROGRAM_TIMEOUT },
  );
  if (status !== 0)
    throw precondition(`checkpoint: ${argv[0]} ended with status ${status}: ${Buffer.from(stderr).toString().trim()}`);
}

/** ms; memory and files of gigabytes, on a slow disk. */
export const PROGRAM_TIMEOUT = 1_800_000;
