/** A profile's filter, compiled in this process (a command line has no other work to keep up) and kept on disk for the next one. */
import { findSeccomp } from "@berth/kernel";
import type { oci } from "@berth/spec";
import type { CompiledFilter } from "../context.ts";
import type { Log } from "./log.ts";
import { isMachineRoot } from "./rootless.ts";

/** Only root may write here: a filter that somebody else could replace would protect from nothing. */
const CACHE = "/run/berth/seccomp";

export async function seccompFilter(
  profile: oci.LinuxSeccomp | undefined,
  log: Log,
): Promise<CompiledFilter | undefined> {
  if (profile === undefined) return undefined;
  const filter = await findSeccomp(profile, isMachineRoot() ? CACHE : undefined);
  for (const warning of filter.warnings) log.debug(warning);
  return filter;
}
