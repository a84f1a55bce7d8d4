/** Seccomp profiles to filters, off the main thread, and each only once. */
import { createHash } from "node:crypto";
import { tmpdir } from "node:os";
import { Worker } from "node:worker_threads";
import type { oci } from "@berth/spec";
import type { BuiltFilter } from "./build.ts";
import { SeccompError } from "./constants.ts";
import type { FilterRequest } from "./find.ts";
import type { WorkerOutput } from "./worker.ts";

/** Compiled in this process, by the profile's hash. A node has a handful of profiles; one filter is about 3 KB. */
const compiled = new Map<string, Promise<BuiltFilter>>();
const MOST_KEPT = 256;

/**
 * The filter of a profile; undefined for none. Kept in memory, and in `cache` (a directory, made when needed) by profile,
 * architectures, libseccomp's version and the kernel's API level. Rejects with SeccompError for a profile that cannot be
 * compiled, with Error where libseccomp is missing.
 */
export async function compileSeccomp(
  profile: oci.LinuxSeccomp | undefined,
  cache?: string,
): Promise<BuiltFilter | undefined> {
  if (profile === undefined) return undefined;
  const hash = profileHash(profile);
  const kept = compiled.get(hash);
  if (kept !== undefined) return await kept;
  const building = inWorker({ profile, hash, cache, scratch: tmpdir() });
  if (compiled.size >= MOST_KEPT) compiled.delete(compiled.keys().next().value ?? "");
  compiled.set(hash, building);
  try {
    return await building;
  } catch (error) {
    // A failure is not kept: libseccomp may be installed, the disk may have room, by the next time.
    compiled.delete(hash);
    throw error;
  }
}

/** Of profiles that are asked for again: a container's, at each exec. They are not changed. */
const hashes = new WeakMap<oci.LinuxSeccomp, string>();

/** A tenth of a millisecond for the usual profile. */
function profileHash(profile: oci.LinuxSeccomp): string {
  const known = hashes.get(profile);
  if (known !== undefined) return known;
  const text = JSON.stringify(profile, (_key, value: unknown) => (typeof value === "bigint" ? `${value}n` : value));
  const hash = createHash("sha256").update(text).digest("hex");
  hashes.set(profile, hash);
  return hash;
}

function inWorker(input: FilterRequest): Promise<BuiltFilter> {
  const { promise, resolve, reject } = Promise.withResolvers<BuiltFilter>();
  const worker = new Worker(new URL("./worker.ts", import.meta.url), { workerData: input });
  worker.once("message", (output: WorkerOutput) => {
    if ("built" in output) resolve(output.built);
    else if (output.error.field === undefined) reject(new Error(`seccomp: ${output.error.message}`));
    else
      reject(
        new SeccompError(
          output.error.field.replace(/^linux\.seccomp\./, ""),
          output.error.message.replace(/^[^:]*: /, ""),
        ),
      );
  });
  worker.once("error", reject);
  worker.once("exit", (code) => reject(new Error(`the seccomp compiler ended with status ${code}`)));
  return promise;
}
