/** A shell for the guest's debug console: one static program, whose other names it knows by itself. */
import { readFile } from "node:fs/promises";
import { VmError } from "../errors.ts";
import type { CpioEntry } from "./cpio.ts";

/** Where distributions have a busybox that is linked statically (Debian: busybox-static). */
const SHELLS = ["/bin/busybox", "/usr/bin/busybox", "/usr/lib/initramfs-tools/bin/busybox"] as const;

const ELF = 0x7f454c46;
/** Of a 64-bit ELF file (elf(5)). */
const PROGRAM_HEADERS = { offset: 0x20, size: 0x36, count: 0x38 };
const PT_INTERP = 3;

/** `file`: a busybox; undefined: one of the usual places. Rejects with VmError. */
export async function shellEntries(file?: string): Promise<CpioEntry[]> {
  const [path, data] = await firstThere(file === undefined ? SHELLS : [file]);
  const why = problemOf(data);
  if (why !== undefined) throw new VmError("Unsupported", `${path}: ${why}; the guest has no libraries`);
  return [
    { path: "bin/busybox", kind: "file", data, mode: 0o755 },
    { path: "bin/sh", kind: "symlink", target: "busybox" },
  ];
}

async function firstThere(paths: readonly string[]): Promise<readonly [path: string, data: Buffer]> {
  for (const path of paths) {
    try {
      return [path, await readFile(path)];
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
    }
  }
  throw new VmError("Missing", `no busybox at ${paths.join(", ")}; install busybox-static, or name one`);
}

function problemOf(data: Buffer): string | undefined {
  if (data.length < 64 || data.readUInt32BE(0) !== ELF || data[4] !== 2) return "is no 64-bit program";
  const start = Number(data.readBigUInt64LE(PROGRAM_HEADERS.offset));
  const [size, count] = [data.readUInt16LE(PROGRAM_HEADERS.size), data.readUInt16LE(PROGRAM_HEADERS.count)];
  if (start + size * count > data.length) return "is cut off";
  const types = Array.from({ length: count }, (_, index) => data.readUInt32LE(start + index * size));
  return types.includes(PT_INTERP) ? "is not linked statically" : undefined;
}
