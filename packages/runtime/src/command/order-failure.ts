/** bosun's failures in the words that callers of runc look for. */
import { OrderError } from "@berth/kernel";
import { CommandError } from "./failure.ts";

const PREFIX = "unable to start container process: ";

/** What a creation or an exec failed with; other errors as they are. */
export function launchFailure(error: unknown): unknown {
  if (!(error instanceof OrderError)) return error;
  // What is wrong with the program is told as Go's os/exec tells it: callers choose their exit status by it.
  const text =
    error.orderName === "check_program"
      ? error.detail
      : error.where === "container"
        ? `error during container init: ${error.message}`
        : error.message;
  return new CommandError(`${PREFIX}${text}`, { cause: error });
}
