/** The DT_SONAME of a 64-bit little-endian ELF library (elf(5)). */
import { readFileSync } from "node:fs";

const SHT_DYNAMIC = 6;
const DT_SONAME = 14n;
const SECTION_HEADER = 64;
const DYNAMIC_ENTRY = 16;

/** undefined: it has none. Throws Error when the file is not such a library. */
export function sonameOf(path: string): string | undefined {
  const file = readFileSync(path);
  if (file.length < SECTION_HEADER || file.toString("latin1", 0, 4) !== "\x7fELF" || file[4] !== 2 || file[5] !== 1)
    throw new Error(`${path}: not a 64-bit little-endian ELF file`);
  const start = Number(file.readBigUInt64LE(40));
  const sections = Array.from({ length: file.readUInt16LE(60) }, (_, index) =>
    file.subarray(start + index * SECTION_HEADER, start + (index + 1) * SECTION_HEADER),
  );
  const dynamic = sections.find(
    (section) => section.length === SECTION_HEADER && section.readUInt32LE(4) === SHT_DYNAMIC,
  );
  const names = dynamic && sections[dynamic.readUInt32LE(40)];
  if (!dynamic || !names) return undefined;
  const entries = contentOf(file, dynamic);
  const strings = contentOf(file, names);
  for (let at = 0; at + DYNAMIC_ENTRY <= entries.length; at += DYNAMIC_ENTRY) {
    if (entries.readBigInt64LE(at) !== DT_SONAME) continue;
    const from = Number(entries.readBigUInt64LE(at + 8));
    return strings.toString("utf8", from, strings.indexOf(0, from));
  }
  return undefined;
}

function contentOf(file: Buffer, section: Buffer): Buffer {
  const offset = Number(section.readBigUInt64LE(24));
  return file.subarray(offset, offset + Number(section.readBigUInt64LE(32)));
}
