/** The client's side of one exec or attach, whatever carries it: SPDY streams or the channels of a WebSocket. */
import type { Readable, Writable } from "node:stream";

export interface Remote {
  readonly stdin: Readable | undefined;
  /** Ending one is what tells the client that there is no more. */
  readonly stdout: Writable | undefined;
  readonly stderr: Writable | undefined;
  /** JSON objects {"Width":columns,"Height":rows}, one after the other. */
  readonly resize: Readable | undefined;
  /** Settles when the client has gone. */
  readonly closed: Promise<void>;
  /** Says how it ended (undefined: well), and closes once the client has been told everything. */
  finish(error: unknown): Promise<void>;
}

/** What a URL promises. */
export interface Wanted {
  readonly tty: boolean;
  readonly stdin: boolean;
  readonly stdout: boolean;
  readonly stderr: boolean;
}

const MOST_PENDING = 1024;

/** Calls `apply` with each size that comes. What is no size ends the reading: nothing after it can be trusted to be one. */
export async function followResizes(sizes: Readable, apply: (rows: number, columns: number) => void): Promise<void> {
  let text = "";
  for await (const chunk of sizes as AsyncIterable<Buffer>) {
    text += chunk.toString("utf8");
    for (let end = text.indexOf("}"); end >= 0; end = text.indexOf("}")) {
      const size = parseSize(text.slice(0, end + 1));
      if (!size) return;
      text = text.slice(end + 1);
      apply(size.rows, size.columns);
    }
    if (text.length > MOST_PENDING) return;
  }
}

function parseSize(text: string): { rows: number; columns: number } | undefined {
  let size: { Width?: unknown; Height?: unknown };
  try {
    size = JSON.parse(text) as typeof size;
  } catch {
    return undefined;
  }
  const valid = (value: unknown): value is number =>
    Number.isInteger(value) && Number(value) >= 0 && Number(value) <= 0xffff;
  return valid(size.Width) && valid(size.Height) ? { rows: size.Height, columns: size.Width } : undefined;
}
