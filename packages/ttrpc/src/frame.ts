/**
 * ttRPC's frames (containerd/ttrpc, PROTOCOL.md): u32 length of the data, u32 stream, u8 type, u8 flags, big-endian, and the data. A
 * client's streams are odd and only ever increase.
 */

export const HEADER_BYTES = 10;
/** Of a frame's data. */
export const MAX_DATA_BYTES = 4 << 20;

export const TYPE = { request: 1, response: 2, data: 3 } as const;
/** closed: the sender sends nothing more on the stream; open: it will; noData: the frame only says so. */
export const FLAG = { closed: 1, open: 2, noData: 4 } as const;

export interface Frame {
  readonly stream: number;
  readonly type: number;
  readonly flags: number;
  readonly data: Uint8Array;
  /** The data's length as the header has it, where that was more than MAX_DATA_BYTES: then `data` is empty, for it was skipped. */
  readonly tooLong?: number | undefined;
}

/** Throws RangeError: more data than a frame may have. */
export function encodeFrame({ stream, type, flags, data }: Frame): Buffer {
  if (data.length > MAX_DATA_BYTES)
    throw new RangeError(`message length ${data.length} exceed maximum message size of ${MAX_DATA_BYTES}`);
  const frame = Buffer.allocUnsafe(HEADER_BYTES + data.length);
  frame.writeUInt32BE(data.length, 0);
  frame.writeUInt32BE(stream, 4);
  frame.writeUInt8(type, 8);
  frame.writeUInt8(flags, 9);
  frame.set(data, HEADER_BYTES);
  return frame;
}

/** Makes frames of bytes as they come. What is too long is skipped and never kept. */
export class FrameDecoder {
  #parts: Buffer[] = [];
  #size = 0;
  /** Of a frame that is too long, still to come. */
  #skip = 0;

  /** Bytes that wait for the rest of their frame. */
  get pending(): number {
    return this.#size;
  }

  *push(chunk: Buffer): Generator<Frame> {
    const skipped = Math.min(this.#skip, chunk.length);
    this.#skip -= skipped;
    if (skipped < chunk.length) this.#add(chunk.subarray(skipped));
    for (let frame = this.#next(); frame !== undefined; frame = this.#next()) yield frame;
  }

  #add(chunk: Buffer): void {
    this.#parts.push(chunk);
    this.#size += chunk.length;
  }

  #next(): Frame | undefined {
    if (this.#size < HEADER_BYTES) return undefined;
    const header = this.#peek(HEADER_BYTES);
    const length = header.readUInt32BE(0);
    const frame = { stream: header.readUInt32BE(4), type: header.readUInt8(8), flags: header.readUInt8(9) };
    if (length > MAX_DATA_BYTES) {
      const here = Math.min(length, this.#size - HEADER_BYTES);
      this.#take(HEADER_BYTES + here);
      this.#skip = length - here;
      return { ...frame, data: Buffer.alloc(0), tooLong: length };
    }
    if (this.#size < HEADER_BYTES + length) return undefined;
    return { ...frame, data: this.#take(HEADER_BYTES + length).subarray(HEADER_BYTES) };
  }

  /** The first `count` bytes, in one piece. */
  #peek(count: number): Buffer {
    const [first] = this.#parts;
    if (first !== undefined && first.length >= count) return first;
    this.#parts = [Buffer.concat(this.#parts)];
    return this.#parts[0] as Buffer;
  }

  #take(count: number): Buffer {
    const whole = this.#peek(count);
    this.#size -= count;
    if (whole.length === count) this.#parts.shift();
    else this.#parts[0] = whole.subarray(count);
    return whole.subarray(0, count);
  }
}
