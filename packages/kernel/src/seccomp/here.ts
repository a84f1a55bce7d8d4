/**
 * A profile's filter without a worker, for programs that have nothing else to do meanwhile. What was compiled before is found
 * without loading libseccomp, which takes longer than the rest of a short command.
 */
import { createHash } from "node:crypto";
import { statSync } from "node:fs";
import { release, tmpdir } from "node:os";
import { join } from "node:path";
import type { oci } from "@berth/spec";
import type { BuiltFilter } from "./build.ts";
import { keepFilter, readFilter } from "./cache.ts";

const LIBRARIES = [
  "/usr/lib/x86_64-linux-gnu",
  "/usr/lib/aarch64-linux-gnu",
  "/usr/lib64",
  "/usr/lib",
  "/lib64",
  "/lib",
];
/** Raised when the same profile must give another filter. */
const FORMAT = 1;

/** `cache`: a directory, made when needed. Rejects with SeccompError, and with Error where libseccomp is missing. */
export async function findSeccomp(profile: oci.LinuxSeccomp, cache?: string): Promise<BuiltFilter> {
  const text = JSON.stringify(profile, (_key, value: unknown) => (typeof value === "bigint" ? `${value}n` : value));
  const hash = createHash("sha256").update(text).digest("hex");
  const key = createHash("sha256")
    .update(JSON.stringify([FORMAT, hash, release(), process.arch, library()]))
    .digest("hex");
  const path = cache === undefined ? undefined : join(cache, `${key}.filter`);
  const kept = path === undefined ? undefined : readFilter(path);
  if (kept !== undefined) return kept;
  const { findFilter } = await import("./find.ts");
  const built = findFilter({ profile, hash, cache: undefined, scratch: tmpdir() });
  if (path !== undefined && cache !== undefined) keepFilter(path, cache, built);
  return built;
}

/** Which libseccomp there is, without asking it. */
function library(): string {
  for (const directory of LIBRARIES) {
    const file = statSync(join(directory, "libseccomp.so.2"), { throwIfNoEntry: false });
    if (file !== undefined) return `${file.ino} ${file.size} ${file.mtimeMs}`;
  }
  return "";
}
