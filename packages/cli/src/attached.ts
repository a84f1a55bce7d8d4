/** A terminal joined to a container, from before its start to its end. */
import type { cri } from "@berth/spec";
import type { Client } from "./client.ts";
import { Failure } from "./failure.ts";
import { onSignals } from "./interrupt.ts";
import { type Shell, warn } from "./shell.ts";
import { openStream, type StreamEnd } from "./stream/client.ts";
import { parseDetachKeys } from "./stream/detach-keys.ts";
import { wire } from "./stream/terminal.ts";
import { waitForExit } from "./wait.ts";

export interface Attachment {
  readonly containerId: string;
  /** For messages. */
  readonly name: string;
  readonly stdin: boolean;
  readonly tty: boolean;
  readonly detachKeys: string;
  /** Signals that this process gets stop the container. */
  readonly signalProxy: boolean;
  /** Called once output flows. */
  readonly start?: () => Promise<void>;
}

/** Seconds between the stop signal and the kill, as berth stop's. */
const GRACE = 10n;

/** The container's final status; undefined if the user detached and it runs on. */
export async function runAttached(
  client: Client,
  shell: Shell,
  attachment: Attachment,
): Promise<cri.ContainerStatus | undefined> {
  const { containerId, name, stdin, tty, start } = attachment;
  checkTerminal(shell, attachment);
  const detachKeys = parseDetachKeys(attachment.detachKeys);
  const { url } = await client.runtime.attach({ containerId, stdin, tty, stdout: true, stderr: !tty });
  const stream = await openStream(url, shell);
  using _ = attachment.signalProxy ? stopOnSignals(client, shell, containerId) : undefined;
  const ended = wire(shell, stream, { stdin, tty, detachKeys });
  try {
    await start?.();
  } catch (error) {
    stream.detach();
    await ended;
    throw error;
  }
  const end = await ended;
  if (end.kind === "detached") return undefined;
  explain(shell, name, end);
  return await waitForExit(client, containerId);
}

/** docker's rule: a container's terminal needs one at this end, or nobody could type. */
export function checkTerminal(shell: Shell, { stdin, tty }: Pick<Attachment, "stdin" | "tty">): void {
  if (stdin && tty && shell.stdin.isTTY !== true)
    throw new Failure("-t with -i needs a terminal as input, and this is a pipe or file: leave out -t");
}

function explain(shell: Shell, name: string, end: StreamEnd): void {
  if (end.kind === "lost" || end.kind === "failure")
    warn(shell, `${end.message}; ${name} runs on and is still waited for; see its output with: berth logs -f ${name}`);
}

/** The CRI has no call for a signal: the first one becomes a stop with its grace period, the second ends the grace. */
function stopOnSignals(client: Client, shell: Shell, containerId: string): Disposable {
  let signals = 0;
  const stop = (): void => {
    signals++;
    client.runtime.stopContainer({ containerId, timeout: signals === 1 ? GRACE : 0n }).catch((error: unknown) => {
      warn(shell, `could not stop the container: ${error instanceof Error ? error.message : String(error)}`);
    });
  };
  // As in `berth run IMAGE | head`: where a program would get SIGPIPE.
  const outputs = [shell.stdout, shell.stderr];
  for (const output of outputs) output.on("error", stop);
  const undo = onSignals(shell, stop);
  return {
    [Symbol.dispose]: () => {
      undo[Symbol.dispose]();
      for (const output of outputs) output.off("error", stop);
    },
  };
}

const NOT_FOUND = /\bENOENT\b|not found|no such file/i;
const NOT_EXECUTABLE = /\b(EACCES|ENOEXEC|EISDIR|EPERM|ELOOP)\b|permission denied|exec format error/i;

/** 127, 126, or undefined: whether `message` says that a command could not be executed, as bosun's order "exec" does. */
export function commandFailure(message: string): 126 | 127 | undefined {
  if (!/\bexec\b|executable/i.test(message)) return undefined;
  if (NOT_FOUND.test(message)) return 127;
  return NOT_EXECUTABLE.test(message) ? 126 : undefined;
}
