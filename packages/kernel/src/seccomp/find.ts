/** A profile's filter, from disk or from libseccomp. Takes milliseconds: for the worker. */
import { createHash, randomUUID } from "node:crypto";
import { join } from "node:path";
import type { oci } from "@berth/spec";
import { buildFilter, type BuiltFilter } from "./build.ts";
import { keepFilter, readFilter } from "./cache.ts";
import { Library } from "./libseccomp.ts";

export interface FilterRequest {
  readonly profile: oci.LinuxSeccomp;
  /** Of the profile. */
  readonly hash: string;
  /** Undefined: nothing is kept on disk. */
  readonly cache: string | undefined;
  /** A directory for libseccomp to write to. */
  readonly scratch: string;
}

/** Raised when the same profile must give another filter. */
const FORMAT = 1;

/** Throws SeccompError, and Error where libseccomp or the directories fail. */
export function findFilter(input: FilterRequest): BuiltFilter {
  const library = new Library();
  const key = createHash("sha256")
    .update(
      JSON.stringify([FORMAT, input.hash, library.version.library, library.version.api, library.nativeArchitecture()]),
    )
    .digest("hex");
  const path = input.cache === undefined ? undefined : join(input.cache, `${key}.bpf`);
  const kept = path === undefined ? undefined : readFilter(path);
  if (kept !== undefined) return kept;
  const built = buildFilter(input.profile, library, join(input.scratch, `.seccomp-${randomUUID()}`));
  if (path !== undefined && input.cache !== undefined) keepFilter(path, input.cache, built);
  return built;
}
