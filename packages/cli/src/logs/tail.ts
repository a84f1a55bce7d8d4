/** Where the last lines of a log file begin, found from its end, so that a large file is not read through. */
import type { FileHandle } from "node:fs/promises";
import { HEADER_MAX, parseRecord } from "./record.ts";

export interface Tail {
  /** Byte offset at which to begin to read. */
  readonly start: number;
  /** Offsets of records after it that belong to older lines: the streams' parts interleave. */
  readonly skip: ReadonlySet<number>;
}

/** The last `count` lines, of both streams together; a line's parts count as one, and so does one that is not ended yet. */
export async function findTail(file: FileHandle, size: number, count: number): Promise<Tail> {
  const chosen = { start: size, left: count, skipped: [] as number[] };
  /** Per stream: whether the line that the scan is inside of is among the chosen. */
  const inside = new Map<string, boolean>();
  for await (const { offset, header } of recordsBackwards(file, size)) {
    if (chosen.left === 0 && ![...inside.values()].includes(true)) break;
    const record = parseRecord(header);
    if (!record) continue;
    if (!record.partial || !inside.has(record.stream)) {
      const wanted = chosen.left > 0;
      if (wanted) chosen.left--;
      inside.set(record.stream, wanted);
    }
    if (inside.get(record.stream)) chosen.start = offset;
    else chosen.skipped.push(offset);
  }
  return { start: chosen.start, skip: new Set(chosen.skipped.filter((offset) => offset >= chosen.start)) };
}

const CHUNK = 64 << 10;
const NEWLINE = 0x0a;

/** Each record's offset and first bytes, last one first. A record without its newline at the end of the file is still being written: left out. */
async function* recordsBackwards(file: FileHandle, size: number): AsyncGenerator<{ offset: number; header: Buffer }> {
  const buffer = Buffer.alloc(CHUNK);
  /** Offset just after the newline that ends the record being looked for; undefined until the last newline is found. */
  let end: number | undefined;
  for (let top = size; top > 0;) {
    const bottom = Math.max(0, top - CHUNK);
    const { bytesRead } = await file.read(buffer, 0, top - bottom, bottom);
    for (let at = bytesRead - 1; at >= 0; at--) {
      if (buffer[at] !== NEWLINE) continue;
      const next = bottom + at + 1;
      if (end !== undefined) yield { offset: next, header: await readHeader(file, next, end - 1) };
      end = next;
    }
    top = bottom;
  }
  if (end !== undefined) yield { offset: 0, header: await readHeader(file, 0, end - 1) };
}

async function readHeader(file: FileHandle, start: number, end: number): Promise<Buffer> {
  const header = Buffer.alloc(Math.min(HEADER_MAX + 8, end - start));
  const { bytesRead } = await file.read(header, 0, header.length, start);
  return header.subarray(0, bytesRead);
}
