/** A profile's filter, from disk or from libseccomp. Takes milliseconds: for the worker. */
import { createHash, randomUUID } from "node:crypto";
import { mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { oci } from "@berth/spec";
import { buildFilter, type BuiltFilter } from "./build.ts";
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
  const kept = path === undefined ? undefined : read(path);
  if (kept !== undefined) return kept;
  const built = buildFilter(input.profile, library, join(input.scratch, `.seccomp-${randomUUID()}`));
  if (path !== undefined && input.cache !== undefined) keep(path, input.cache, built);
  return built;
}

/** A line of JSON and the filter. Undefined for what is absent, cut short or changed: it is then compiled again. */
function read(path: string): BuiltFilter | undefined {
  let file: Buffer;
  try {
    file = readFileSync(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
  const end = file.indexOf("\n");
  const filter = Uint8Array.from(file.subarray(end + 1));
  try {
    const header = JSON.parse(file.toString("utf8", 0, Math.max(end, 0))) as {
      flags: string;
      sha256: string;
      warnings: string[];
    };
    return header.sha256 === digest(filter)
      ? { flags: BigInt(header.flags), filter, warnings: header.warnings }
      : undefined;
  } catch (error) {
    if (error instanceof SyntaxError) return undefined;
    throw error;
  }
}

function keep(path: string, directory: string, { flags, filter, warnings }: BuiltFilter): void {
  mkdirSync(directory, { recursive: true, mode: 0o700 });
  const temporary = `${path}.${randomUUID()}`;
  try {
    writeFileSync(
      temporary,
      Buffer.concat([
        Buffer.from(`${JSON.stringify({ flags: String(flags), sha256: digest(filter), warnings })}\n`),
        filter,
      ]),
    );
    renameSync(temporary, path);
  } finally {
    rmSync(temporary, { force: true });
  }
}

function digest(bytes: Uint8Array): string {
  return createHash("sha256").update(bytes).digest("hex");
}
