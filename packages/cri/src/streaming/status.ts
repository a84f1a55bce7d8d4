/** How a command's end is told: metav1.Status as JSON since protocol v4, a line of text (nothing for success) before. */

/** Ends a stream whose command exited with another status than 0. */
export class NonZeroExit extends Error {
  readonly exitCode: number;
  constructor(exitCode: number) {
    super(`command terminated with exit code ${exitCode}`);
    this.exitCode = exitCode;
  }
}

/** `error` undefined: success. */
export function statusText(error: unknown, json: boolean): string {
  if (!json) return error === undefined ? "" : messageOf(error);
  return JSON.stringify(statusOf(error));
}

/** Reasons and causes are remotecommand's (k8s.io/apimachinery, pkg/util/remotecommand/constants.go). */
function statusOf(error: unknown): object {
  if (error === undefined) return { metadata: {}, status: "Success" };
  const message = messageOf(error);
  if (error instanceof NonZeroExit) {
    const details = { causes: [{ reason: "ExitCode", message: String(error.exitCode) }] };
    return { metadata: {}, status: "Failure", reason: "NonZeroExitCode", message, details };
  }
  return { metadata: {}, status: "Failure", reason: "InternalError", message, code: 500 };
}

const messageOf = (error: unknown): string => (error instanceof Error ? error.message : String(error));
