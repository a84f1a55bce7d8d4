/** The field codec that orders, messages and tree entries share: values in a table's order, little-endian (messages.ts). */
import type { FieldType, Fields } from "./table.ts";

/** The value of a field as a caller gives it. */
export type FieldInput = number | bigint | string | Uint8Array | readonly (string | Uint8Array | number)[];
export type FieldInputs = Readonly<Record<string, FieldInput>>;
/** The value of a field as it is decoded: texts are strings (invalid UTF-8 is replaced). */
export type FieldOutput = number | bigint | string | Uint8Array | string[] | Uint8Array[] | number[];

const U64_MASK = 0xffff_ffff_ffff_ffffn;
const INITIAL_ROOM = 1024;

/** What cannot be put on the wire: a value outside its type, or a NUL in a text. */
export class EncodeError extends Error {
  override readonly name = "EncodeError";
}

/** One growing buffer for a whole frame; lengths that come before what they measure are filled in afterwards. */
export class Encoder {
  #buffer = Buffer.allocUnsafe(INITIAL_ROOM);
  #size = 0;

  get size(): number {
    return this.#size;
  }

  /** What was written so far, without a copy. The encoder must not be used any more. */
  take(): Buffer {
    return this.#buffer.subarray(0, this.#size);
  }

  u16(value: number): void {
    this.#reserve(2);
    this.#size = this.#buffer.writeUInt16LE(value, this.#size);
  }

  u32(value: number): void {
    this.#reserve(4);
    this.setU32(this.#size, value);
    this.#size += 4;
  }

  u64(value: bigint): void {
    this.#reserve(8);
    this.#size = this.#buffer.writeBigUInt64LE(value, this.#size);
  }

  /** By the byte: in a process that lives 20 ms nothing of Buffer's is compiled yet. */
  setU32(at: number, value: number): void {
    if (value >>> 0 !== value) throw new RangeError(`${value} is out of range: it must be an integer from 0 to 2^32-1`);
    this.#buffer[at] = value;
    this.#buffer[at + 1] = value >>> 8;
    this.#buffer[at + 2] = value >>> 16;
    this.#buffer[at + 3] = value >>> 24;
  }

  /** Length, bytes, and a NUL that the length does not count. */
  bytes(value: Uint8Array): void {
    this.#reserve(value.byteLength + 5);
    this.setU32(this.#size, value.byteLength);
    this.#size += 4;
    this.#buffer.set(value, this.#size);
    this.#size += value.byteLength;
    this.#buffer[this.#size++] = 0;
  }

  text(value: string | Uint8Array): void {
    if (typeof value !== "string") {
      if (value.includes(0)) throw new EncodeError("a text must not have a NUL byte");
      return this.bytes(value);
    }
    if (value.includes("\0")) throw new EncodeError(`${JSON.stringify(value)} must not have a NUL byte`);
    const length = Buffer.byteLength(value);
    this.#reserve(length + 5);
    this.setU32(this.#size, length);
    this.#size += 4;
    this.#size += this.#buffer.write(value, this.#size, "utf8");
    this.#buffer[this.#size++] = 0;
  }

  /** All fields of one row of a table; `what` names the row in errors. */
  fields(fields: Fields, values: FieldInputs, what: string): void {
    for (const name in fields) {
      const value = values[name];
      const type = fields[name];
      if (value === undefined || type === undefined) throw new EncodeError(`${what}: field ${name} is missing`);
      try {
        this.#field(type, value);
      } catch (error) {
        throw new EncodeError(`${what}.${name}: ${error instanceof Error ? error.message : String(error)}`);
      }
    }
  }

  #field(type: FieldType, value: FieldInput): void {
    switch (type) {
      case "u32":
        return this.u32(value as number);
      case "u64":
        return this.u64(value as bigint);
      case "i64":
        if (BigInt.asIntN(64, value as bigint) !== value) throw new RangeError(`${String(value)} does not fit 64 bits`);
        return this.u64(value & U64_MASK);
      case "str":
        return this.text(value as string | Uint8Array);
      case "bytes":
        return this.bytes(value as Uint8Array);
      case "strs":
        return this.#list(value as readonly (string | Uint8Array)[], (item) => this.text(item));
      case "blobs":
        return this.#list(value as readonly Uint8Array[], (item) => this.bytes(item));
      case "u32s":
        return this.#list(value as readonly number[], (item) => this.u32(item));
    }
  }

  #list<T>(items: readonly T[], write: (item: T) => void): void {
    this.u32(items.length);
    for (const item of items) write(item);
  }

  #reserve(more: number): void {
    if (this.#size + more <= this.#buffer.length) return;
    const grown = Buffer.allocUnsafe(Math.max(this.#buffer.length * 2, this.#size + more));
    this.#buffer.copy(grown, 0, 0, this.#size);
    this.#buffer = grown;
  }
}

/** Bytes that are not what the tables say. */
export class DecodeError extends Error {
  override readonly name = "DecodeError";
}

export class Decoder {
  readonly #buffer: Buffer;
  #at = 0;

  constructor(buffer: Uint8Array) {
    this.#buffer = Buffer.from(buffer.buffer, buffer.byteOffset, buffer.byteLength);
  }

  get atEnd(): boolean {
    return this.#at === this.#buffer.length;
  }

  u16(): number {
    return this.#buffer.readUInt16LE(this.#advance(2));
  }

  u32(): number {
    return this.#buffer.readUInt32LE(this.#advance(4));
  }

  u64(): bigint {
    return this.#buffer.readBigUInt64LE(this.#advance(8));
  }

  /** `size` raw bytes: a view, not a copy. */
  raw(size: number): Buffer {
    const start = this.#advance(size);
    return this.#buffer.subarray(start, start + size);
  }

  bytes(): Buffer {
    const value = this.raw(this.u32());
    if (this.#buffer[this.#advance(1)] !== 0) throw new DecodeError("a byte string does not end with NUL");
    return value;
  }

  fields(fields: Fields): Record<string, FieldOutput> {
    const values: Record<string, FieldOutput> = {};
    for (const [name, type] of Object.entries(fields)) values[name] = this.#field(type);
    return values;
  }

  #field(type: FieldType): FieldOutput {
    switch (type) {
      case "u32":
        return this.u32();
      case "u64":
        return this.u64();
      case "i64":
        return BigInt.asIntN(64, this.u64());
      case "str":
        return this.bytes().toString("utf8");
      case "bytes":
        return this.bytes();
      case "strs":
        return this.#list(() => this.bytes().toString("utf8"));
      case "blobs":
        return this.#list(() => this.bytes());
      case "u32s":
        return this.#list(() => this.u32());
    }
  }

  #list<T>(read: () => T): T[] {
    const count = this.u32();
    // Each item takes at least four bytes: a count beyond that is a lie, not a reason to allocate.
    if (count > (this.#buffer.length - this.#at) / 4) throw new DecodeError(`a list claims ${count} items`);
    return Array.from({ length: count }, read);
  }

  #advance(size: number): number {
    const start = this.#at;
    if (start + size > this.#buffer.length)
      throw new DecodeError(`${size} bytes wanted, ${this.#buffer.length - start} left`);
    this.#at = start + size;
    return start;
  }
}
