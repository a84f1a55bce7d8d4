/**
 * One 512-byte tar header: V7, POSIX ustar, GNU and star. Field positions are from POSIX.1-2017 (pax, "ustar Interchange
 * Format") and the GNU tar manual ("Basic Tar Format", which also has GNU's base-256 numbers and old sparse headers).
 */
import { ImageError } from "../errors.ts";

export const BLOCK = 512;

export type HeaderFormat = "v7" | "ustar" | "gnu" | "star";

export interface Header {
  readonly format: HeaderFormat;
  /** The type flag as a character; "\0" is given as "0". */
  readonly type: string;
  /** Raw bytes, prefix and name joined. */
  readonly path: Uint8Array;
  readonly link: Uint8Array;
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  /** Bytes that follow, before padding. */
  readonly size: number;
  /** Seconds since the epoch. */
  readonly mtime: number;
  readonly major: number;
  readonly minor: number;
}

export function isZeroBlock(block: Uint8Array): boolean {
  for (let i = 0; i < block.length; i++) if (block[i] !== 0) return false;
  return true;
}

/** `at`: the header's offset in the archive, for messages. Throws InvalidImage. */
export function parseHeader(block: Uint8Array, at: number): Header {
  checkSum(block, at);
  const format = formatOf(block);
  const type = block[156] === 0 ? "0" : String.fromCharCode(block[156] as number);
  const number = (offset: number, length: number, field: string): number =>
    parseNumber(block.subarray(offset, offset + length), field, at);
  const devices = format !== "v7" && (type === "3" || type === "4");
  return {
    format,
    type,
    path: pathOf(block, format),
    link: text(block, 157, 100),
    mode: number(100, 8, "mode"),
    uid: number(108, 8, "uid"),
    gid: number(116, 8, "gid"),
    size: number(124, 12, "size"),
    mtime: number(136, 12, "mtime"),
    major: devices ? number(329, 8, "major device number") : 0,
    minor: devices ? number(337, 8, "minor device number") : 0,
  };
}

function checkSum(block: Uint8Array, at: number): void {
  let unsigned = 0;
  let signed = 0;
  for (let i = 0; i < BLOCK; i++) {
    const byte = i >= 148 && i < 156 ? 32 : (block[i] as number);
    unsigned += byte;
    signed += byte > 127 ? byte - 256 : byte;
  }
  const stored = parseNumber(block.subarray(148, 156), "checksum", at);
  if (stored !== unsigned && stored !== signed)
    throw new ImageError("InvalidImage", `tar: wrong header checksum at byte ${at}`);
}

function formatOf(block: Uint8Array): HeaderFormat {
  const magic = latin1(block.subarray(257, 265));
  if (magic === "ustar  \0") return "gnu";
  if (!magic.startsWith("ustar\0")) return "v7";
  return latin1(block.subarray(508, 512)) === "tar\0" ? "star" : "ustar";
}

function pathOf(block: Uint8Array, format: HeaderFormat): Uint8Array {
  const name = text(block, 0, 100);
  if (format === "v7" || format === "gnu") return name;
  const prefix = text(block, 345, format === "star" ? 131 : 155);
  if (prefix.length === 0) return name;
  const joined = new Uint8Array(prefix.length + 1 + name.length);
  joined.set(prefix);
  joined[prefix.length] = 0x2f;
  joined.set(name, prefix.length + 1);
  return joined;
}

/** Up to the first NUL or the whole field, as raw bytes. */
export function text(block: Uint8Array, offset: number, length: number): Uint8Array {
  const field = block.subarray(offset, offset + length);
  const end = field.indexOf(0);
  return end < 0 ? field : field.subarray(0, end);
}

/** Octal digits between spaces and NULs, or GNU's base-256 where the first bit is set. An empty field is 0. */
export function parseNumber(field: Uint8Array, name: string, at: number): number {
  if (((field[0] as number) & 0x80) !== 0) return parseBase256(field, name, at);
  let i = 0;
  while (field[i] === 0x20) i++;
  let value = 0;
  for (; i < field.length; i++) {
    const digit = (field[i] as number) - 0x30;
    if (digit < 0 || digit > 7) break;
    value = value * 8 + digit;
  }
  for (; i < field.length; i++) {
    if (field[i] !== 0x20 && field[i] !== 0)
      throw new ImageError("InvalidImage", `tar: the ${name} in the header at byte ${at} is no octal number`);
  }
  return value;
}

function parseBase256(field: Uint8Array, name: string, at: number): number {
  const first = field[0] as number;
  let value = BigInt((first & 0x40) === 0 ? first & 0x7f : (first & 0x7f) - 0x80);
  for (let i = 1; i < field.length; i++) value = value * 256n + BigInt(field[i] as number);
  const small = Number(value);
  if (!Number.isSafeInteger(small))
    throw new ImageError("InvalidImage", `tar: the ${name} in the header at byte ${at} is out of range`);
  return small;
}

export function latin1(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("latin1");
}
