/** What main and a worker say to each other about one job. */
import { canceled, fromPlain, type ImageError } from "../errors.ts";
import type { JobName } from "./jobs.ts";
import type { FromWorker, RunOptions, ToWorker } from "./pool.ts";

export class Conversation {
  readonly #id: number;
  readonly #post: (message: ToWorker, transfer?: ArrayBuffer[]) => void;
  readonly #options: Pick<RunOptions, "signal" | "progress">;
  readonly #chunks: AsyncIterator<Uint8Array> | undefined;
  readonly #ended = Promise.withResolvers<unknown>();
  #finished = false;

  constructor(
    id: number,
    post: (message: ToWorker, transfer?: ArrayBuffer[]) => void,
    { signal, progress, input }: Pick<RunOptions, "signal" | "progress" | "input">,
  ) {
    this.#id = id;
    this.#post = post;
    this.#options = { signal, progress };
    this.#chunks = input?.[Symbol.asyncIterator]();
  }

  /** From the request to the result. */
  async hold(name: JobName, request: unknown): Promise<unknown> {
    const { signal } = this.#options;
    const abort = (): void => {
      const { code, message } = canceled(signal as AbortSignal, "pull");
      this.#say({ type: "abort", id: this.#id, reason: { code, message } });
    };
    this.#say({ type: "job", id: this.#id, name, request });
    signal?.addEventListener("abort", abort, { once: true });
    try {
      return await this.#ended.promise;
    } finally {
      this.#finished = true;
      signal?.removeEventListener("abort", abort);
      // The stream's own failure at its end is nobody's any more.
      if (this.#chunks?.return !== undefined) void Promise.resolve(this.#chunks.return()).catch(() => undefined);
    }
  }

  hear(message: Exclude<FromWorker, { type: "pong" }>): void {
    switch (message.type) {
      case "progress":
        return this.#options.progress?.(message.progress);
      case "more":
        // A stream that fails is the archive's sender's failure: the job ends, and the sender's error is what is told.
        return void this.#feed().catch((error: unknown) => {
          const why = error instanceof Error ? error.message : String(error);
          const reason = { code: "Canceled", message: `the archive's stream failed: ${why}` } as const;
          this.#say({ type: "abort", id: this.#id, reason });
        });
      case "done":
        return this.#ended.resolve(message.result);
      case "failed":
        return this.fail(fromPlain(message.error));
    }
  }

  fail(error: ImageError): void {
    const { signal } = this.#options;
    this.#ended.reject(signal?.aborted === true ? canceled(signal, "pull") : error);
  }

  /** A chunk that comes late is for nobody. */
  #say(message: ToWorker, transfer: ArrayBuffer[] = []): void {
    if (!this.#finished) this.#post(message, transfer);
  }

  async #feed(): Promise<void> {
    const next = await this.#chunks?.next();
    if (next === undefined || next.done === true) return this.#say({ type: "end", id: this.#id });
    // A copy of its own: what comes may be a window on a pool that others use, and would be sent with all of it.
    const bytes = new Uint8Array(next.value);
    this.#say({ type: "chunk", id: this.#id, bytes }, [bytes.buffer]);
  }
}
