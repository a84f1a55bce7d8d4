/** The linker's cache of a root (/etc/ld.so.cache, glibc's format of 2.2 and newer): where 64-bit libraries are that no usual directory has. */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";

const OLD_MAGIC = "ld.so-1.7.0\0";
const OLD_HEADER = 16;
const OLD_ENTRY = 12;
const MAGIC = "glibc-ld.so.cache1.1";
const HEADER = 48;
const ENTRY = 24;
const ELF = 1;
/** Of a library's flags: x86-64, aarch64, ppc64le. */
const ARCHITECTURES = [0x0300, 0x0a00, 0x0500];

/** As the root has them, each once, in the cache's order. None without a cache, or with one that is of another format. */
export function cachedLibraries(root: string): string[] {
  const file = join(root, "/etc/ld.so.cache");
  if (!existsSync(file)) return [];
  const cache = current(readFileSync(file));
  if (cache.toString("latin1", 0, MAGIC.length) !== MAGIC || cache.length < HEADER) return [];
  const count = Math.min(cache.readUInt32LE(MAGIC.length), Math.floor((cache.length - HEADER) / ENTRY));
  const paths = Array.from({ length: count }, (_, index) => HEADER + index * ENTRY)
    .filter((at) => is64Bit(cache.readUInt32LE(at)))
    .map((at) => textAt(cache, cache.readUInt32LE(at + 8)));
  return [...new Set(paths)].filter((path) => path.startsWith("/"));
}

/** Behind one in the old format, which older ldconfig writes before it. */
function current(file: Buffer): Buffer {
  if (file.length < OLD_HEADER || file.toString("latin1", 0, OLD_MAGIC.length) !== OLD_MAGIC) return file;
  const end = OLD_HEADER + file.readUInt32LE(OLD_MAGIC.length) * OLD_ENTRY;
  return file.subarray(Math.ceil(end / 8) * 8);
}

const is64Bit = (flags: number): boolean =>
  (flags & 0xff) !== 0 && (flags & ELF) !== 0 && ARCHITECTURES.includes(flags & 0xff00);

function textAt(cache: Buffer, from: number): string {
  const end = cache.indexOf(0, from);
  return from < cache.length && end > from ? cache.toString("utf8", from, end) : "";
}
