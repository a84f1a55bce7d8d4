/** D-Bus values on the wire, little-endian (D-Bus Specification, "Type System" and "Marshaling"). */

/** A variant: a value with its signature. */
export interface Variant {
  readonly signature: string;
  readonly value: DBusValue;
}

/** Integers of 64 bits are bigint, arrays of bytes Uint8Array; a dictionary is an array of [key, value]. */
export type DBusValue = number | bigint | boolean | string | Uint8Array | Variant | readonly DBusValue[];

/** Bytes that are no D-Bus message, or a value that does not fit its signature. */
export class DBusError extends Error {
  override readonly name: string = "DBusError";
}

const LONGEST_ARRAY = 1 << 26;
const DEEPEST = 32;

const ALIGNMENTS: Readonly<Record<string, number>> = {
  y: 1,
  g: 1,
  v: 1,
  n: 2,
  q: 2,
  b: 4,
  i: 4,
  u: 4,
  s: 4,
  o: 4,
  a: 4,
  x: 8,
  t: 8,
  d: 8,
  "(": 8,
  "{": 8,
};

/** The first complete type of a signature, and what is left of it. */
export function firstType(signature: string): [type: string, rest: string] {
  const end = typeEnd(signature, 0, 0);
  return [signature.slice(0, end), signature.slice(end)];
}

function typeEnd(signature: string, at: number, depth: number): number {
  const code = signature[at];
  if (code === undefined || depth > DEEPEST)
    throw new DBusError(`${JSON.stringify(signature)} is not a D-Bus signature`);
  if (code === "a") return typeEnd(signature, at + 1, depth + 1);
  if (code !== "(" && code !== "{") {
    if (ALIGNMENTS[code] === undefined) throw new DBusError(`${JSON.stringify(signature)} is not a D-Bus signature`);
    return at + 1;
  }
  const close = code === "(" ? ")" : "}";
  let next = at + 1;
  while (signature[next] !== close) next = typeEnd(signature, next, depth + 1);
  return next + 1;
}

export class DBusWriter {
  #buffer = Buffer.alloc(256);
  #size = 0;

  get size(): number {
    return this.#size;
  }

  take(): Buffer {
    return this.#buffer.subarray(0, this.#size);
  }

  align(to: number): void {
    this.#reserve(to);
    while (this.#size % to !== 0) this.#buffer[this.#size++] = 0;
  }

  /** Several values by a signature of as many types. */
  values(signature: string, values: readonly DBusValue[]): void {
    let left = signature;
    for (const value of values) {
      const [type, rest] = firstType(left);
      this.value(type, value);
      left = rest;
    }
    if (left !== "") throw new DBusError(`no value for ${JSON.stringify(left)} of ${JSON.stringify(signature)}`);
  }

  value(type: string, value: DBusValue): void {
    const code = type[0] ?? "";
    this.align(ALIGNMENTS[code] ?? 1);
    this.#reserve(16);
    switch (code) {
      case "y":
        this.#size = this.#buffer.writeUInt8(Number(value), this.#size);
        return;
      case "n":
        this.#size = this.#buffer.writeInt16LE(Number(value), this.#size);
        return;
      case "q":
        this.#size = this.#buffer.writeUInt16LE(Number(value), this.#size);
        return;
      case "i":
        this.#size = this.#buffer.writeInt32LE(Number(value), this.#size);
        return;
      case "b":
        this.u32(value === true ? 1 : 0);
        return;
      case "u":
        this.u32(Number(value));
        return;
      case "x":
        this.#size = this.#buffer.writeBigInt64LE(value as bigint, this.#size);
        return;
      case "t":
        this.#size = this.#buffer.writeBigUInt64LE(value as bigint, this.#size);
        return;
      case "d":
        this.#size = this.#buffer.writeDoubleLE(Number(value), this.#size);
        return;
      case "s":
      case "o":
        this.u32(Buffer.byteLength(value as string));
        this.#bytes(Buffer.from(`${value as string}\0`));
        return;
      case "g":
        this.#bytes(Buffer.from([Buffer.byteLength(value as string), ...Buffer.from(`${value as string}\0`)]));
        return;
      case "v":
        return this.#variant(value as Variant);
      case "a":
        return this.#array(type.slice(1), value);
      default:
        return this.values(type.slice(1, -1), value as readonly DBusValue[]);
    }
  }

  u32(value: number): void {
    this.#reserve(4);
    this.#size = this.#buffer.writeUInt32LE(value, this.#size);
  }

  setU32(at: number, value: number): void {
    this.#buffer.writeUInt32LE(value, at);
  }

  raw(bytes: Uint8Array): void {
    this.#bytes(bytes);
  }

  #variant({ signature, value }: Variant): void {
    this.value("g", signature);
    this.value(signature, value);
  }

  #array(type: string, value: DBusValue): void {
    const lengthAt = this.#size;
    this.u32(0);
    this.align(ALIGNMENTS[type[0] ?? ""] ?? 1);
    const start = this.#size;
    if (value instanceof Uint8Array) this.#bytes(value);
    else for (const item of value as readonly DBusValue[]) this.value(type, item);
    this.setU32(lengthAt, this.#size - start);
  }

  #bytes(bytes: Uint8Array): void {
    this.#reserve(bytes.byteLength);
    this.#buffer.set(bytes, this.#size);
    this.#size += bytes.byteLength;
  }

  #reserve(more: number): void {
    if (this.#size + more <= this.#buffer.length) return;
    const grown = Buffer.alloc(Math.max(this.#buffer.length * 2, this.#size + more));
    this.#buffer.copy(grown);
    this.#buffer = grown;
  }
}

export class DBusReader {
  readonly #buffer: Buffer;
  #at: number;

  constructor(buffer: Buffer, at = 0) {
    this.#buffer = buffer;
    this.#at = at;
  }

  get at(): number {
    return this.#at;
  }

  align(to: number): void {
    this.#at = Math.ceil(this.#at / to) * to;
  }

  values(signature: string): DBusValue[] {
    const values: DBusValue[] = [];
    for (let left = signature; left !== "";) {
      const [type, rest] = firstType(left);
      values.push(this.value(type));
      left = rest;
    }
    return values;
  }

  value(type: string, depth = 0): DBusValue {
    if (depth > DEEPEST) throw new DBusError("a value is nested too deeply");
    const code = type[0] ?? "";
    this.align(ALIGNMENTS[code] ?? 1);
    switch (code) {
      case "y":
        return this.#buffer.readUInt8(this.#advance(1));
      case "n":
        return this.#buffer.readInt16LE(this.#advance(2));
      case "q":
        return this.#buffer.readUInt16LE(this.#advance(2));
      case "i":
        return this.#buffer.readInt32LE(this.#advance(4));
      case "u":
        return this.#buffer.readUInt32LE(this.#advance(4));
      case "b":
        return this.#buffer.readUInt32LE(this.#advance(4)) !== 0;
      case "x":
        return this.#buffer.readBigInt64LE(this.#advance(8));
      case "t":
        return this.#buffer.readBigUInt64LE(this.#advance(8));
      case "d":
        return this.#buffer.readDoubleLE(this.#advance(8));
      case "s":
      case "o":
        return this.#text(this.#buffer.readUInt32LE(this.#advance(4)));
      case "g":
        return this.#text(this.#buffer.readUInt8(this.#advance(1)));
      case "v": {
        const [signature, rest] = firstType(this.value("g") as string);
        if (rest !== "") throw new DBusError("a variant holds several values");
        return { signature, value: this.value(signature, depth + 1) };
      }
      case "a":
        return this.#array(type.slice(1), depth);
      default: {
        const fields: DBusValue[] = [];
        for (let left = type.slice(1, -1); left !== "";) {
          const [field, rest] = firstType(left);
          fields.push(this.value(field, depth + 1));
          left = rest;
        }
        return fields;
      }
    }
  }

  #array(type: string, depth: number): DBusValue {
    const size = this.#buffer.readUInt32LE(this.#advance(4));
    if (size > LONGEST_ARRAY) throw new DBusError(`an array of ${size} bytes`);
    this.align(ALIGNMENTS[type[0] ?? ""] ?? 1);
    const end = this.#at + size;
    if (type === "y") return Uint8Array.from(this.#buffer.subarray(this.#advance(size), end));
    const items: DBusValue[] = [];
    while (this.#at < end) items.push(this.value(type, depth + 1));
    if (this.#at !== end) throw new DBusError("an array is longer than it says");
    return items;
  }

  #text(size: number): string {
    const start = this.#advance(size + 1);
    return this.#buffer.toString("utf8", start, start + size);
  }

  #advance(size: number): number {
    const start = this.#at;
    if (start + size > this.#buffer.length) throw new DBusError("a message ends too early");
    this.#at = start + size;
    return start;
  }
}
