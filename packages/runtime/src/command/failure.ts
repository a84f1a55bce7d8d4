/** What a command says and exits with when it cannot do what it was asked for. */
export class CommandError extends Error {
  override readonly name = "CommandError";
  readonly exitCode: number;
  constructor(message: string, options: { readonly exitCode?: number; readonly cause?: unknown } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.exitCode = options.exitCode ?? 1;
  }
}

/** Flags or arguments that do not fit: the command's help goes to standard output first. */
export class UsageError extends CommandError {
  /** What follows "Incorrect Usage". */
  readonly detail: string;
  constructor(message: string, detail = "") {
    super(message);
    this.detail = detail;
  }
}
