/** SPDY/3.1 frames (draft 3.1, section 2.2 and 2.6), to bytes and from them. */

export const TYPE = {
  synStream: 1,
  synReply: 2,
  rstStream: 3,
  settings: 4,
  ping: 6,
  goAway: 7,
  headers: 8,
  windowUpdate: 9,
};
export const FIN = 1;
export const RST = {
  protocolError: 1,
  invalidStream: 2,
  refusedStream: 3,
  cancel: 5,
  internalError: 6,
  alreadyClosed: 9,
};
export const GOAWAY = { ok: 0, protocolError: 1, internalError: 2 };
export const SETTING_INITIAL_WINDOW = 7;
/** Bytes; of a stream, and of the session. */
export const INITIAL_WINDOW = 64 << 10;

const VERSION = 3;
const HEADER_SIZE = 8;
/** Of a control frame; what is sent here in earnest is a few hundred bytes. */
const MOST_CONTROL = 64 << 10;
const CONTROL_BIT = 0x8000_0000;
const STREAM_MASK = 0x7fff_ffff;
const LENGTH_MASK = 0xff_ffff;

export interface ControlFrame {
  readonly kind: "control";
  readonly type: number;
  readonly flags: number;
  readonly body: Buffer;
}
/** A part of a DATA frame, passed on as it comes: a frame may be 16 MB. `fin`: the last part of a frame that ends its stream. */
export interface DataPart {
  readonly kind: "data";
  readonly stream: number;
  readonly fin: boolean;
  readonly bytes: Buffer;
}

/** What came is not SPDY/3; nothing after it can be understood. */
export class FrameError extends Error {}

export class FrameReader {
  #bytes: Buffer = Buffer.alloc(0);
  /** Of the DATA frame that is under way. */
  #data: { readonly stream: number; readonly fin: boolean; left: number } | undefined;

  push(chunk: Buffer): void {
    this.#bytes = this.#bytes.length === 0 ? chunk : Buffer.concat([this.#bytes, chunk]);
  }

  /** The next frame, or part of one; undefined until more has come. Throws FrameError. */
  next(): ControlFrame | DataPart | undefined {
    if (this.#data) return this.#part(this.#data);
    if (this.#bytes.length < HEADER_SIZE) return undefined;
    const [first, second] = [this.#bytes.readUInt32BE(0), this.#bytes.readUInt32BE(4)];
    const [flags, size] = [second >>> 24, second & LENGTH_MASK];
    if (first < CONTROL_BIT) {
      this.#take(HEADER_SIZE);
      const data = { stream: first, fin: (flags & FIN) !== 0, left: size };
      return size === 0
        ? { kind: "data", stream: first, fin: data.fin, bytes: Buffer.alloc(0) }
        : this.#part((this.#data = data));
    }
    const version = (first >>> 16) & 0x7fff;
    if (version !== VERSION) throw new FrameError(`a frame of SPDY version ${version}`);
    if (size > MOST_CONTROL) throw new FrameError(`a control frame of ${size} bytes`);
    if (this.#bytes.length < HEADER_SIZE + size) return undefined;
    this.#take(HEADER_SIZE);
    return { kind: "control", type: first & 0xffff, flags, body: this.#take(size) };
  }

  #part(data: { readonly stream: number; readonly fin: boolean; left: number }): DataPart | undefined {
    if (this.#bytes.length === 0) return undefined;
    const bytes = this.#take(Math.min(data.left, this.#bytes.length));
    data.left -= bytes.length;
    if (data.left === 0) this.#data = undefined;
    return { kind: "data", stream: data.stream, fin: data.fin && data.left === 0, bytes };
  }

  #take(size: number): Buffer {
    const taken = this.#bytes.subarray(0, size);
    this.#bytes = this.#bytes.subarray(size);
    return taken;
  }
}

export function dataHeader(stream: number, size: number, fin: boolean): Buffer {
  const header = Buffer.alloc(HEADER_SIZE);
  header.writeUInt32BE(stream, 0);
  header.writeUInt32BE(((fin ? FIN : 0) << 24) | size, 4);
  return header;
}

/** `fields` are 32-bit, big-endian; `rest` follows them. */
export function control(
  type: number,
  flags: number,
  fields: readonly number[],
  rest: Buffer = Buffer.alloc(0),
): Buffer {
  const bytes = Buffer.alloc(HEADER_SIZE + fields.length * 4);
  bytes.writeUInt32BE((CONTROL_BIT | (VERSION << 16) | type) >>> 0, 0);
  bytes.writeUInt32BE(((flags << 24) | (fields.length * 4 + rest.length)) >>> 0, 4);
  fields.forEach((field, index) => bytes.writeUInt32BE(field >>> 0, HEADER_SIZE + index * 4));
  return Buffer.concat([bytes, rest]);
}

/** The 31-bit stream id, or other number, at `at`. Throws FrameError where the body is too short. */
export function field(frame: ControlFrame, at: number): number {
  if (frame.body.length < at + 4) throw new FrameError(`a control frame of type ${frame.type} that is too short`);
  return frame.body.readUInt32BE(at) & STREAM_MASK;
}
