/**
 * Records of a CRI log file (Kubernetes' logging format): `2016-10-06T00:17:09.669794202Z stdout P text`, one to a line. Tag P: the
 * record is a part, and the stream's next record goes on in the same line; F: it ends the line.
 */
export interface LogRecord {
  /** RFC 3339 with nanoseconds, as written. */
  readonly time: string;
  readonly stream: "stdout" | "stderr";
  /** The line goes on in the stream's next record. */
  readonly partial: boolean;
  /** What the container wrote, byte for byte; without the newline that ended it. */
  readonly text: Buffer;
}

const SPACE = 0x20;
/** Enough for time, stream and tag; a header is searched no further. */
export const HEADER_MAX = 80;

/** undefined: `line` (without its newline) is not a record, as in a file that a power cut has torn. */
export function parseRecord(line: Buffer): LogRecord | undefined {
  const afterTime = line.indexOf(SPACE);
  const afterStream = line.indexOf(SPACE, afterTime + 1);
  if (afterTime < 0 || afterStream < 0 || afterStream > HEADER_MAX) return undefined;
  const time = line.toString("latin1", 0, afterTime);
  const stream = line.toString("latin1", afterTime + 1, afterStream);
  if ((stream !== "stdout" && stream !== "stderr") || !/^\d{4}-\d\d-\d\dT/.test(time)) return undefined;
  const space = line.indexOf(SPACE, afterStream + 1);
  const afterTags = space < 0 ? line.length : space;
  // Tags are separated by colons; the first says whether the line is whole, others are for the future.
  const [tag] = line.toString("latin1", afterStream + 1, Math.min(afterTags, afterStream + HEADER_MAX)).split(":");
  if (tag !== "P" && tag !== "F") return undefined;
  return { time, stream, partial: tag === "P", text: line.subarray(Math.min(afterTags + 1, line.length)) };
}
