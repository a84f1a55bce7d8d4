/** CRIU, as far as it can work here. */
import { type Hand, OrderError } from "@berth/kernel";
import { CODE, TtrpcError } from "@berth/ttrpc";

/** ms; criu check makes processes and namespaces of its own. */
const CHECK_TIMEOUT = 30_000;

export const criuEnvironment = (): string[] => [`PATH=${process.env["PATH"] ?? ""}`];

/** FailedPrecondition: it is missing, or cannot work on this kernel, for its own reason. Before anything is touched. */
export async function checkCriu(hand: Pick<Hand, "spawn">): Promise<void> {
  const refuse = (why: string): never => {
    throw new TtrpcError(CODE.failedPrecondition, `checkpoints need criu, ${why}`);
  };
  const asked = hand.spawn(
    { argv: ["criu", "check"], env: { PATH: process.env["PATH"] ?? "" } },
    { timeoutMs: CHECK_TIMEOUT },
  );
  const { status, stdout, stderr } = await asked.catch((error: unknown) => {
    if (error instanceof OrderError && error.code === "ENOENT") return refuse("which is not installed");
    throw error;
  });
  if (status === 0) return;
  const said = Buffer.concat([stdout, stderr]).toString().trim().split("\n");
  refuse(`and "criu check" fails here: ${said.findLast((line) => line.includes("Error")) ?? said.at(-1) ?? ""}`);
}
