/** The DT_SONAME of a 64-bit little-endian ELF library (elf(5)). Of the file only headers, dynamic section and names are read: drivers are large. */
import { closeSync, openSync, readSync } from "node:fs";

const SHT_DYNAMIC = 6;
const DT_SONAME = 14n;
const FILE_HEADER = 64;
const SECTION_HEADER = 64;
const DYNAMIC_ENTRY = 16;
/** No driver's section of names is nearly as large. */
const MAX_READ = 64 * 1024 * 1024;

/** "": it has none; undefined: it is no such library. Throws the error of a file that cannot be read. */
export function sonameOf(path: string): string | undefined {
  const fd = openSync(path, "r");
  try {
    return sonameIn((offset, size) => readAt(fd, offset, size));
  } finally {
    closeSync(fd);
  }
}

/** Whether it is for 32-bit programs (ELFCLASS32). Throws the error of a file that cannot be read. */
export function is32Bit(path: string): boolean {
  const fd = openSync(path, "r");
  try {
    const header = readAt(fd, 0, FILE_HEADER);
    return header.toString("latin1", 0, 4) === "\x7fELF" && header[4] === 1;
  } finally {
    closeSync(fd);
  }
}

type Read = (offset: number, size: number) => Buffer;

function sonameIn(read: Read): string | undefined {
  const header = read(0, FILE_HEADER);
  if (
    header.length < FILE_HEADER ||
    header.toString("latin1", 0, 4) !== "\x7fELF" ||
    header[4] !== 2 ||
    header[5] !== 1
  )
    return undefined;
  const [start, count] = [Number(header.readBigUInt64LE(40)), header.readUInt16LE(60)];
  const table = read(start, count * SECTION_HEADER);
  const sections = Array.from({ length: Math.floor(table.length / SECTION_HEADER) }, (_, index) =>
    table.subarray(index * SECTION_HEADER, (index + 1) * SECTION_HEADER),
  );
  const dynamic = sections.find((section) => section.readUInt32LE(4) === SHT_DYNAMIC);
  const names = dynamic && sections[dynamic.readUInt32LE(40)];
  if (!dynamic || !names) return "";
  const from = entryOf(contentOf(read, dynamic), DT_SONAME);
  if (from === undefined) return "";
  const strings = contentOf(read, names);
  const end = strings.indexOf(0, from);
  return from < end ? strings.toString("utf8", from, end) : "";
}

function entryOf(entries: Buffer, tag: bigint): number | undefined {
  for (let at = 0; at + DYNAMIC_ENTRY <= entries.length; at += DYNAMIC_ENTRY)
    if (entries.readBigInt64LE(at) === tag) return Number(entries.readBigUInt64LE(at + 8));
  return undefined;
}

function contentOf(read: Read, section: Buffer): Buffer {
  return read(Number(section.readBigUInt64LE(24)), Number(section.readBigUInt64LE(32)));
}

/** Less where the file ends before. */
function readAt(fd: number, offset: number, size: number): Buffer {
  if (size > MAX_READ || !Number.isSafeInteger(offset)) return Buffer.alloc(0);
  const buffer = Buffer.alloc(size);
  return buffer.subarray(0, readSync(fd, buffer, 0, size, offset));
}
