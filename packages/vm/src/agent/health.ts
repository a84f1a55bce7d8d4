/** Whether an agent is still well: it is asked every half minute, as kata-runtime asks. */
import { AgentError, type AgentClient } from "./client.ts";

const EVERY_MS = 30_000;
/** Kata's time-out for the health of an agent. */
const ANSWER_MS = 90_000;

/** Resolves, with the reason, when the agent does not answer or says that it is not well; never once the signal is aborted. */
export function followHealth(
  client: Pick<AgentClient, "check">,
  signal: AbortSignal,
  everyMs = EVERY_MS,
): Promise<string> {
  const { promise, resolve } = Promise.withResolvers<string>();
  let timer: NodeJS.Timeout | undefined;
  const next = (): void => {
    timer = setTimeout(() => void look(), everyMs).unref();
  };
  const look = async (): Promise<void> => {
    try {
      await client.check({ timeoutMs: ANSWER_MS, signal });
      if (!signal.aborted) next();
    } catch (error) {
      if (signal.aborted) return;
      resolve(error instanceof AgentError ? error.message : `the guest's agent: ${(error as Error).message}`);
    }
  };
  signal.addEventListener("abort", () => clearTimeout(timer), { once: true });
  next();
  return promise;
}
