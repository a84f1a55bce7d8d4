/** A socket that a program which was just started is about to listen at. */
import { watch } from "node:fs";
import { readFile } from "node:fs/promises";
import { basename, dirname } from "node:path";

const NOT_YET = new Set(["ENOENT", "ECONNREFUSED"]);

/**
 * Tries at once, and again with each change in the socket's directory. Rejects with the first other error, or the signal's reason:
 * give one that is aborted when the program ends.
 */
export async function connectWhenThere<T>(
  path: string,
  connect: (path: string) => Promise<T>,
  signal?: AbortSignal,
): Promise<T> {
  const changed = new Changes(dirname(path), basename(path), signal);
  try {
    for (;;) {
      signal?.throwIfAborted();
      const next = changed.next();
      try {
        return await connect(path);
      } catch (error) {
        if (!NOT_YET.has((error as NodeJS.ErrnoException).code ?? "")) throw error;
      }
      await next;
    }
  } finally {
    changed.close();
  }
}

/** bind(2) is seen, listen(2) is not: who was refused looks again after this. */
const REFUSED_MS = 20;

class Changes {
  readonly #watcher: ReturnType<typeof watch>;
  readonly #signal: AbortSignal | undefined;
  #wake: (() => void) | undefined;
  #timer: NodeJS.Timeout | undefined;

  constructor(directory: string, name: string, signal: AbortSignal | undefined) {
    this.#signal = signal;
    this.#watcher = watch(directory, (_, changed) => {
      if (changed === name) this.#wake?.();
    });
    signal?.addEventListener("abort", this.#onAbort, { once: true });
  }

  readonly #onAbort = (): void => this.#wake?.();

  next(): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#wake = resolve;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(resolve, REFUSED_MS);
    return promise;
  }

  close(): void {
    clearTimeout(this.#timer);
    this.#watcher.close();
    this.#signal?.removeEventListener("abort", this.#onAbort);
  }
}

/** SO_ACCEPTCON, as /proc/net/unix shows it. */
const LISTENS = "00010000";

/** Resolves when somebody listens at a path, without connecting: to some the first connection is the only one. */
export async function listening(path: string, signal?: AbortSignal): Promise<void> {
  await connectWhenThere(
    path,
    async () => {
      const sockets = (await readFile("/proc/net/unix", "utf8")).split("\n").map((line) => line.trim().split(/\s+/));
      if (sockets.some(([, , , flags, , , , at]) => flags === LISTENS && at === path)) return;
      throw Object.assign(new Error(`nobody listens at ${path}`), { code: "ECONNREFUSED" });
    },
    signal,
  );
}
