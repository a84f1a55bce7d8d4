/** Joins this process's stdin, window size and signals to a remote stream. */
import type { Shell } from "../shell.ts";
import type { StreamEnd, Wired } from "./client.ts";
import { DetachKeys } from "./detach-keys.ts";

export interface Wiring {
  /** Forward stdin. */
  readonly stdin: boolean;
  /** The container has a terminal. */
  readonly tty: boolean;
  /** Only with stdin and tty. */
  readonly detachKeys: Uint8Array;
}

/** Until the stream has ended. A terminal is in raw mode meanwhile: each key goes to the container, Ctrl-C too. */
export async function wire(shell: Shell, stream: Wired, { stdin, tty, detachKeys }: Wiring): Promise<StreamEnd> {
  await using undo = new AsyncDisposableStack();
  if (tty) undo.use(followSize(shell, stream));
  if (stdin) undo.use(forwardStdin(shell, stream, tty ? new DetachKeys(detachKeys) : undefined));
  return await stream.ended;
}

function followSize({ stdout }: Shell, stream: Wired): Disposable {
  const tell = (): void => {
    // A terminal that does not know its size says 0.
    if (stdout.columns && stdout.rows) stream.resize(stdout.columns, stdout.rows);
  };
  tell();
  stdout.on("resize", tell);
  return { [Symbol.dispose]: () => void stdout.off("resize", tell) };
}

function forwardStdin(shell: Shell, stream: Wired, keys: DetachKeys | undefined): Disposable {
  const { stdin } = shell;
  const raw = keys !== undefined && stdin.isTTY === true ? shell.rawTerminal() : undefined;
  let wired = true;
  const onData = (chunk: Uint8Array): void => {
    const { forward, detached } = keys?.feed(chunk) ?? { forward: chunk, detached: false };
    if (detached) return stream.detach();
    if (forward.length === 0) return;
    stdin.pause();
    void stream.writeStdin(forward).then(() => (wired ? stdin.resume() : undefined));
  };
  const onEnd = (): void => stream.endStdin();
  stdin.on("data", onData).on("end", onEnd).on("error", onEnd);
  if (stdin.readableEnded) onEnd();
  return {
    [Symbol.dispose]: () => {
      wired = false;
      stdin.off("data", onData).off("end", onEnd).off("error", onEnd).pause();
      raw?.[Symbol.dispose]();
    },
  };
}
