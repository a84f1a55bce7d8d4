/** The CRI's log format, read strictly. */
import assert from "node:assert/strict";

export interface LogLine {
  readonly time: string;
  readonly stream: string;
  readonly tag: string;
  readonly content: Buffer;
}
/** Parses strictly: anything that is not exactly the CRI format fails. */
export function parseLog(bytes: Buffer): LogLine[] {
  const lines: LogLine[] = [];
  for (let at = 0; at < bytes.length;) {
    const end = bytes.indexOf(10, at);
    assert.ok(end >= 0, "the log ends within an entry");
    const head = /^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z) (stdout|stderr) ([PF]) /.exec(
      bytes.toString("latin1", at, Math.min(end, at + 64)) + " ",
    );
    assert.ok(head, `not an entry: ${bytes.toString("latin1", at, Math.min(end, at + 80))}`);
    const [whole, time = "", stream = "", tag = ""] = head;
    lines.push({ time, stream, tag, content: bytes.subarray(at + whole.length, end) });
    at = end + 1;
  }
  return lines;
}

/** What a stream's writer wrote, from its entries. */
export function rejoin(lines: readonly LogLine[], stream: string): Buffer {
  return Buffer.concat(
    lines
      .filter((line) => line.stream === stream)
      .flatMap((line) => (line.tag === "F" ? [line.content, Buffer.from("\n")] : [line.content])),
  );
}
