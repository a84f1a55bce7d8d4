/**
 * state.flat: what the commands that need no decision read of a container (packages/native/command/record.c), which parse no JSON.
 * Strings, each with a NUL behind it; lists begin with how many there are.
 */
import { processesDirectory } from "./processes.ts";
import type { ContainerRecord } from "./record.ts";

const VERSION = "berth-runc 1";
const FREEZER = { none: 0, v1: 1, v2: 2 } as const;

/** undefined: a container with something in it that those commands cannot show. */
export function flatRecord(record: ContainerRecord): string | undefined {
  const { cgroup_paths: paths, berth } = record;
  const { spec } = berth;
  const [freezer, freezerDirectory] =
    paths.freezer !== undefined
      ? [FREEZER.v1, paths.freezer]
      : paths[""] !== undefined
        ? [FREEZER.v2, paths[""]]
        : [FREEZER.none, ""];
  const cgroups = [...new Set(Object.values(paths))];
  const annotations = Object.entries(spec.annotations ?? {});
  const fields = [
    VERSION,
    needs(record),
    String(record.init_process_pid),
    String(record.init_process_start),
    sharesPids(record) ? "1" : "0",
    String(freezer),
    freezerDirectory,
    processesDirectory(record) ?? "",
    spec.ociVersion,
    record.id,
    berth.bundle,
    record.config.rootfs,
    record.created,
    String(cgroups.length),
    ...cgroups,
    String(annotations.length),
    ...annotations.flat(),
  ];
  const plain = fields.every((field) => typeof field === "string" && field.isWellFormed() && !field.includes("\0"));
  return plain ? fields.map((field) => `${field}\0`).join("") : undefined;
}

/** "s" and "d": start and delete have more to do than the kernel's part. */
function needs({ berth: { spec, unit } }: ContainerRecord): string {
  const has = (hooks: readonly unknown[] | undefined) => (hooks ?? []).length > 0;
  const deletes = unit !== undefined || has(spec.hooks?.poststop) || spec.linux?.intelRdt !== undefined;
  return `${has(spec.hooks?.poststart) ? "s" : ""}${deletes ? "d" : ""}`;
}

/** Whether the container's PID namespace is also somebody else's. */
export function sharesPids({ config: { namespaces } }: ContainerRecord): boolean {
  return !namespaces.some(({ type, path }) => type === "NEWPID" && path === "");
}
