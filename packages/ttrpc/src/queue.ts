/** Messages of one stream that wait for their reader. */

export class MessageQueue<T> implements AsyncIterableIterator<T> {
  readonly #waiting: T[] = [];
  readonly #onRead: () => void;
  #reader: PromiseWithResolvers<IteratorResult<T>> | undefined;
  #end: { readonly error: unknown } | undefined;

  /** `onRead`: a message that waited has been taken, or dropped. */
  constructor(onRead: () => void = () => undefined) {
    this.#onRead = onRead;
  }

  /** Whether it has to wait for its reader: `onRead` is called when it does so no more. */
  push(item: T): boolean {
    if (this.#end) return false;
    if (!this.#reader) {
      this.#waiting.push(item);
      return true;
    }
    this.#reader.resolve({ done: false, value: item });
    this.#reader = undefined;
    return false;
  }

  /** What has come is still read; then the reader is told the end, or `error`. */
  end(error?: unknown): void {
    if (this.#end) return;
    this.#end = { error };
    const reader = this.#reader;
    this.#reader = undefined;
    if (error === undefined) reader?.resolve({ done: true, value: undefined });
    else reader?.reject(error);
  }

  next(): Promise<IteratorResult<T>> {
    if (this.#waiting.length > 0) {
      const value = this.#waiting.shift() as T;
      this.#onRead();
      return Promise.resolve({ done: false, value });
    }
    if (this.#end)
      return this.#end.error === undefined
        ? Promise.resolve({ done: true, value: undefined })
        : Promise.reject(this.#end.error);
    if (this.#reader) return Promise.reject(new Error("a stream has one reader"));
    this.#reader = Promise.withResolvers();
    return this.#reader.promise;
  }

  /** The reader wants nothing more. */
  return(): Promise<IteratorResult<T>> {
    this.end();
    for (; this.#waiting.length > 0; this.#waiting.pop()) this.#onRead();
    return Promise.resolve({ done: true, value: undefined });
  }

  [Symbol.asyncIterator](): this {
    return this;
  }
}
