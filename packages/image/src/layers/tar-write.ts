/** The few tar entries that an image archive is made of: regular files and directories with short ASCII names (POSIX ustar). */
import type { PaxRecords } from "./pax.ts";
import { BLOCK } from "./tar-header.ts";

/** Bytes that ustar's eleven octal digits can say; beyond it GNU's base-256 form is used, as every reader knows it. */
const OCTAL_MAX = 8 ** 11;

export function fileHeader(name: string, size: number): Buffer {
  return header(name, "0", 0o644, size);
}

export function directoryHeader(name: string): Buffer {
  return header(`${name}/`, "5", 0o755, 0);
}

/** A pax header with these records, for the entry that follows. */
export function paxHeader(records: PaxRecords): Buffer {
  const data = Buffer.concat(records.map(([key, value]) => paxRecord(key, value)));
  return Buffer.concat([header("PaxHeaders/entry", "x", 0o644, data.length), data, paddingOf(data.length)]);
}

/** "LENGTH KEY=VALUE\n", where the length counts its own digits. */
function paxRecord(key: string, value: Uint8Array): Buffer {
  const rest = Buffer.concat([Buffer.from(` ${key}=`), value, Buffer.from("\n")]);
  let length = rest.length + 1;
  while (String(length).length + rest.length !== length) length = String(length).length + rest.length;
  return Buffer.concat([Buffer.from(String(length)), rest]);
}

/** What follows a file's content. */
export function paddingOf(size: number): Buffer {
  return Buffer.alloc((BLOCK - (size % BLOCK)) % BLOCK);
}

export const END_OF_ARCHIVE = Buffer.alloc(2 * BLOCK);

function header(name: string, type: string, mode: number, size: number): Buffer {
  const block = Buffer.alloc(BLOCK);
  block.write(name, 0, 100, "latin1");
  block.write(octal(mode, 8), 100, "latin1");
  block.write(octal(0, 8), 108, "latin1");
  block.write(octal(0, 8), 116, "latin1");
  if (size < OCTAL_MAX) {
    block.write(octal(size, 12), 124, "latin1");
  } else {
    block.writeUInt8(0x80, 124);
    block.writeBigUInt64BE(BigInt(size), 128);
  }
  block.write(octal(0, 12), 136, "latin1");
  block.write(type, 156, "latin1");
  block.write("ustar\u000000", 257, "latin1");
  block.fill(" ", 148, 156, "latin1");
  const sum = block.reduce((total, byte) => total + byte, 0);
  block.write(`${sum.toString(8).padStart(6, "0")}\0 `, 148, "latin1");
  return block;
}

function octal(value: number, length: number): string {
  return `${value.toString(8).padStart(length - 1, "0")}\0`;
}
