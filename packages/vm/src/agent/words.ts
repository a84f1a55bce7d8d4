/** What the agent says of a failure, as a person is told it. */
import { OrderError } from "@berth/kernel";
import { VmError } from "../errors.ts";

/** Its causes line by line (anyhow), then where in its code each was. */
export const wordsOf = (message: string): string =>
  (message.split(/\n\s*Stack backtrace:/)[0] ?? "")
    .split("\n")
    .map((line) => line.trim())
    .filter((line) => line !== "" && line !== "Caused by:")
    .join(": ");

const ECHILD = 10;

/** `work` carries out the plan of a stand-in, or releases it: what the guest's agent refuses is told in the agent's words. */
export async function toldByAgent<T>(work: Promise<T>): Promise<T> {
  try {
    return await work;
  } catch (error) {
    if (!(error instanceof OrderError) || error.orderName !== "agent_process" || error.errno !== ECHILD) throw error;
    throw new VmError("Guest", `the guest's agent: ${wordsOf(error.detail)}`, { cause: error });
  }
}
