/** Log records as `berth logs` prints them: each stream's bytes to its own output, parts joined to lines. */
import { once } from "node:events";
import type { Writable } from "node:stream";
import type { LogRecord } from "./record.ts";

const NEWLINE = Buffer.from("\n");

export class LogWriter {
  readonly #outputs: Readonly<Record<LogRecord["stream"], Writable>>;
  readonly #timestamps: boolean;
  /** Streams in the middle of a line. */
  readonly #open = new Set<LogRecord["stream"]>();

  constructor(outputs: Readonly<Record<LogRecord["stream"], Writable>>, timestamps: boolean) {
    this.#outputs = outputs;
    this.#timestamps = timestamps;
  }

  /** Order is kept, also between the streams; settles when the outputs take more. */
  async write(records: readonly LogRecord[]): Promise<void> {
    let pieces: Uint8Array[] = [];
    let current: LogRecord["stream"] | undefined;
    for (const record of records) {
      if (current !== undefined && record.stream !== current) {
        await this.#flush(current, pieces);
        pieces = [];
      }
      current = record.stream;
      this.#append(pieces, record);
    }
    if (current !== undefined) await this.#flush(current, pieces);
  }

  #append(pieces: Uint8Array[], { stream, time, text, partial }: LogRecord): void {
    if (this.#timestamps && !this.#open.has(stream)) pieces.push(Buffer.from(`${time} `));
    pieces.push(text);
    if (partial) this.#open.add(stream);
    else {
      this.#open.delete(stream);
      pieces.push(NEWLINE);
    }
  }

  async #flush(stream: LogRecord["stream"], pieces: readonly Uint8Array[]): Promise<void> {
    const output = this.#outputs[stream];
    if (!output.write(Buffer.concat(pieces))) await once(output, "drain");
  }
}
