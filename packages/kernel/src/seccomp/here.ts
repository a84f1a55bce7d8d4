/**
 * A profile's filter without a worker, for programs that have nothing else to do meanwhile. What was compiled before is found
 * without loading libseccomp, which takes longer than the rest of a short command.
 */
import { existsSync, mkdirSync, readFileSync, renameSync, statSync, writeFileSync } from "node:fs";
import { release, tmpdir } from "node:os";
import { dirname, join } from "node:path";
import type { oci } from "@berth/spec";
import type { BuiltFilter } from "./build.ts";

const LIBRARIES = [
  "/usr/lib/x86_64-linux-gnu",
  "/usr/lib/aarch64-linux-gnu",
  "/usr/lib64",
  "/usr/lib",
  "/lib64",
  "/lib",
];
/** Raised when the same profile must give another filter. */
const FORMAT = 2;

/** `cache`: a directory, made when needed. Rejects with SeccompError, and with Error where libseccomp is missing. */
export async function findSeccomp(profile: oci.LinuxSeccomp, cache?: string): Promise<BuiltFilter> {
  const text = JSON.stringify(profile, (_key, value: unknown) => (typeof value === "bigint" ? `${value}n` : value));
  const key = JSON.stringify([FORMAT, release(), process.arch, library(), text]);
  const path = cache === undefined ? undefined : join(cache, `${shortHash(key)}.filter`);
  const kept = path === undefined ? undefined : read(path, key);
  if (kept !== undefined) return kept;
  const { findFilter } = await import("./find.ts");
  const built = findFilter({ profile, hash: "", cache: undefined, scratch: tmpdir() });
  if (path !== undefined) keep(path, key, built);
  return built;
}

interface Header extends Pick<BuiltFilter, "warnings"> {
  readonly key: string;
  readonly flags: string;
  readonly size: number;
}

/** Undefined for what is absent, cut short, or of another profile. */
function read(path: string, key: string): BuiltFilter | undefined {
  if (!existsSync(path)) return undefined;
  const file = readFileSync(path);
  const end = file.indexOf("\n");
  const filter = Uint8Array.from(file.subarray(end + 1));
  try {
    const header = JSON.parse(file.toString("utf8", 0, Math.max(end, 0))) as Header;
    if (header.key !== key || header.size !== filter.length) return undefined;
    return { flags: BigInt(header.flags), filter, warnings: header.warnings };
  } catch (error) {
    if (error instanceof SyntaxError) return undefined;
    throw error;
  }
}

function keep(path: string, key: string, { flags, filter, warnings }: BuiltFilter): void {
  mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
  const header: Header = { key, flags: String(flags), size: filter.length, warnings };
  const temporary = `${path}.${process.pid}`;
  writeFileSync(temporary, Buffer.concat([Buffer.from(`${JSON.stringify(header)}\n`), filter]));
  renameSync(temporary, path);
}

/** FNV-1a: a name for a file, whose content says whose it is. node:crypto alone takes longer to load than a short command. */
function shortHash(text: string): string {
  let hash = 0x811c9dc5;
  for (let at = 0; at < text.length; at++) hash = Math.imul(hash ^ text.charCodeAt(at), 0x01000193);
  return (hash >>> 0).toString(16).padStart(8, "0");
}

/** Which libseccomp there is, without asking it. */
function library(): string {
  for (const directory of LIBRARIES) {
    const file = statSync(join(directory, "libseccomp.so.2"), { throwIfNoEntry: false });
    if (file !== undefined) return `${file.ino} ${file.size} ${file.mtimeMs}`;
  }
  return "";
}
