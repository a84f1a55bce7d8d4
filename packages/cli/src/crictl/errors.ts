/** How a crictl command fails. */
import { CallError, DaemonUnreachable } from "../call-error.ts";

/** Printed as a log line, exit code 1. */
export class CrictlError extends Error {}

/** The command line itself is wrong: its help is printed too. */
export class UsageError extends CrictlError {}

/** Printed bare, as crictl's library prints those that come with an exit code. */
export class ExitError extends Error {
  readonly exitCode: number;
  constructor(message: string, exitCode: number) {
    super(message);
    this.exitCode = exitCode;
  }
}

export const EMPTY_ID = "ID cannot be empty";

/** google.rpc.Code as Go prints it. */
const CODES = [
  ..."OK Canceled Unknown InvalidArgument DeadlineExceeded NotFound AlreadyExists PermissionDenied".split(" "),
  ..."ResourceExhausted FailedPrecondition Aborted OutOfRange Unimplemented Internal Unavailable DataLoss".split(" "),
  "Unauthenticated",
];

export function messageOf(error: unknown): string {
  if (error instanceof CallError) {
    const details = error.message === `${error.call}: ${error.codeName}` ? "" : error.message;
    return `rpc error: code = ${CODES[error.code] ?? error.code} desc = ${details}`;
  }
  return error instanceof Error ? error.message : String(error);
}

/** Only what a person may cause gets a place in the sentence; a fault of this program stays one. */
const isExpected = (error: unknown): boolean =>
  error instanceof CallError ||
  error instanceof CrictlError ||
  error instanceof DaemonUnreachable ||
  (error instanceof Error && "code" in error);

/** Runs `work`; what goes wrong is told behind `what`: "listing containers: …". */
export async function wrap<T>(what: string, work: () => Promise<T> | T): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (!isExpected(error)) throw error;
    throw new CrictlError(`${what}: ${messageOf(error)}`, { cause: error });
  }
}

/** All at once; every failure is told, a line each (errors.Join). */
export async function together(works: readonly (() => Promise<void>)[]): Promise<void> {
  const failures = (await Promise.allSettled(works.map((work) => work())))
    .filter((result) => result.status === "rejected")
    .map(({ reason }) => reason as Error);
  const fault = failures.find((error) => !isExpected(error) && !(error instanceof ExitError));
  const [first] = failures;
  if (fault !== undefined) throw fault;
  if (first !== undefined && failures.length === 1) throw first;
  if (failures.length > 1) throw new CrictlError(failures.map(messageOf).join("\n"));
}
