/** bosun's failures in the words that callers of runc look for. */
import { OrderError } from "@berth/kernel";
import { CommandError } from "./failure.ts";

const PREFIX = "unable to start container process: ";

/** What a creation or an exec failed with; other errors as they are. */
export function launchFailure(error: unknown): unknown {
  if (!(error instanceof OrderError)) return error;
  const text = wordsOf(error);
  return new CommandError(`${PREFIX}${text}`, { cause: error });
}

/** Programs and hooks as Go's os/exec and runc tell of them: callers choose their exit status by it, and people search for it. */
function wordsOf(error: OrderError): string {
  if (isHook(error)) return `error during container init: ${hookFailure(error)}`;
  if (error.orderName === "check_program") return error.detail;
  if (error.orderName === "exec")
    return error.detail.replace("its interpreter is missing", "no such file or directory (its interpreter is missing)");
  return error.where === "container" ? `error during container init: ${error.message}` : error.message;
}

const HOOK = /^hooks\.(\w+)\[(\d+)\]$/;

function isHook(error: OrderError): boolean {
  return HOOK.test(error.because ?? "");
}

/** A hook's failure in runc's words. */
export function hookFailure(error: unknown): string {
  const [, kind, index] = (error instanceof OrderError && HOOK.exec(error.because ?? "")) || [];
  if (error instanceof OrderError && kind !== undefined) return `error running ${kind} hook #${index}: ${error.detail}`;
  return error instanceof Error ? error.message : String(error);
}
