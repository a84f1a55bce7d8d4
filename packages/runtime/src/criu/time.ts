/** CRIU restores into a time namespace where the kernel has them, so that clocks go on (time_namespaces(7)). */
import { existsSync, readlinkSync } from "node:fs";
import type { oci } from "@berth/spec";

/** The configuration as it is in fact: who joins the restored container joins its time namespace too. */
export function withTimeNamespace(spec: oci.Spec, pid: number): oci.Spec {
  const namespaces = spec.linux?.namespaces ?? [];
  if (namespaces.some(({ type }) => type === "time") || timeNamespace(pid) === timeNamespace("self")) return spec;
  return { ...spec, linux: { ...spec.linux, namespaces: [...namespaces, { type: "time" }] } };
}

const timeNamespace = (pid: number | "self"): string | undefined =>
  existsSync(`/proc/${pid}/ns/time`) ? readlinkSync(`/proc/${pid}/ns/time`) : undefined;
