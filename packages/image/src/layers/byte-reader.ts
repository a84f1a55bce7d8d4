/**
 * A stream of chunks, read in pieces of the reader's choosing. Chunks are never copied but where a piece spans two: a piece
 * is a view that is good until more is read.
 */
export class ByteReader {
  readonly #source: AsyncIterator<Uint8Array>;
  #chunk: Uint8Array = EMPTY;
  #at = 0;
  #offset = 0;
  #ended = false;

  constructor(source: AsyncIterable<Uint8Array>) {
    this.#source = source[Symbol.asyncIterator]();
  }

  /** Bytes handed out so far. */
  get offset(): number {
    return this.#offset;
  }

  /** `size` bytes if they are here already, without waiting. */
  take(size: number): Uint8Array | undefined {
    if (this.#chunk.length - this.#at < size) return undefined;
    const piece = this.#chunk.subarray(this.#at, this.#at + size);
    this.#at += size;
    this.#offset += size;
    return piece;
  }

  /** `size` bytes, or fewer at the end of the stream. */
  async exactly(size: number): Promise<Uint8Array> {
    const here = this.take(size);
    if (here !== undefined) return here;
    const whole = new Uint8Array(size);
    let filled = 0;
    while (filled < size) {
      const piece = await this.some(size - filled);
      if (piece === undefined) return whole.subarray(0, filled);
      whole.set(piece, filled);
      filled += piece.length;
    }
    return whole;
  }

  /** At least one and at most `max` bytes; undefined at the end of the stream. */
  async some(max: number): Promise<Uint8Array | undefined> {
    while (this.#at === this.#chunk.length) if (!(await this.#fill())) return undefined;
    const size = Math.min(max, this.#chunk.length - this.#at);
    return this.take(size);
  }

  /** Passes over `size` bytes; resolves to how many there were. */
  async skip(size: number): Promise<number> {
    let left = size;
    while (left > 0) {
      const piece = await this.some(left);
      if (piece === undefined) break;
      left -= piece.length;
    }
    return size - left;
  }

  /** Reads to the end of the stream and drops it. */
  async drain(): Promise<void> {
    while ((await this.some(Number.MAX_SAFE_INTEGER)) !== undefined);
  }

  async #fill(): Promise<boolean> {
    if (this.#ended) return false;
    const next = await this.#source.next();
    this.#ended = next.done === true;
    // The last one too: its bytes may be gone.
    this.#chunk = next.done === true ? EMPTY : next.value;
    this.#at = 0;
    return !this.#ended;
  }
}

const EMPTY = new Uint8Array(0);
