/** What ends a command with a message: one line on stderr, "berth: <message>", and an exit code. */

/** As docker and nerdctl: what `berth run` itself could not do, what could not be executed, what was not found. */
export const EXIT = { failure: 1, runFailure: 125, notExecutable: 126, notFound: 127, brokenPipe: 141 } as const;

/** Exit code of a process that a signal ended, as shells have it. */
export const SIGNAL_EXIT_BASE = 128;

export class Failure extends Error {
  override readonly name = "Failure";
  readonly exitCode: number;

  constructor(message: string, exitCode: number = EXIT.failure, options?: ErrorOptions) {
    super(message, options);
    this.exitCode = exitCode;
  }
}

/** For options of docker and nerdctl that berth knows and does not have. */
export const refused = (option: string, reason: string): Failure =>
  new Failure(`${option} is not supported: ${reason}`);
