/** Commands that take several names: each is tried, each failure is told, and one of them is the exit code. */
import { CallError, DaemonUnreachable } from "./call-error.ts";
import { EXIT, Failure } from "./failure.ts";
import type { Session } from "./session.ts";
import { warn } from "./shell.ts";

export async function eachOf<T>(session: Session, items: readonly T[], act: (item: T) => Promise<void>): Promise<void> {
  for (const item of items) {
    try {
      await act(item);
    } catch (error) {
      if (error instanceof DaemonUnreachable || !(error instanceof Failure || error instanceof CallError)) throw error;
      warn(session.shell, error.message);
      session.exitCode = error instanceof Failure ? error.exitCode : EXIT.failure;
    }
  }
}
