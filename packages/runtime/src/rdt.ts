/** Intel RDT: a class of service by directory of resctrl (config-linux.md, "IntelRdt"; resctrl.rst). */
import { existsSync } from "node:fs";
import { join } from "node:path";
import type { HostFacts, Order, Plan } from "@berth/kernel";
import type { oci } from "@berth/spec";
import type { PlanBuilder } from "./builder.ts";
import { PlanError } from "./context.ts";

const FIELD = "linux.intelRdt";

interface Group {
  readonly directory: string;
  /** Made for this container: its name was not given, so that nobody else can be in it. */
  readonly own: boolean;
  readonly monitoring: string | undefined;
}

/** Undefined where the configuration asks for nothing. Throws PlanError. */
function groupOf(spec: oci.Spec, id: string, host: HostFacts): Group | undefined {
  const rdt = spec.linux?.intelRdt;
  if (rdt === undefined) return undefined;
  if (host.resctrl === undefined)
    throw new PlanError(FIELD, "resctrl is not mounted on this machine (mount -t resctrl resctrl /sys/fs/resctrl)");
  const { closID } = rdt;
  if (closID !== undefined && closID !== "/" && (closID === "." || closID === ".." || /[/\n]/.test(closID)))
    throw new PlanError(`${FIELD}.closID`, `${JSON.stringify(closID)} is not the name of a directory`);
  const directory =
    closID === "/" ? host.resctrl : join(host.resctrl, closID === undefined || closID === "" ? id : closID);
  return {
    directory,
    own: closID === undefined || closID === "",
    monitoring: rdt.enableMonitoring ? join(directory, "mon_groups", id) : undefined,
  };
}

/** Orders of the stage, which moves itself: what it clones inherits the class. Throws PlanError. */
export function intelRdt(plan: PlanBuilder, spec: oci.Spec, id: string, host: HostFacts): void {
  const group = groupOf(spec, id, host);
  if (group === undefined) return;
  const lines = schemata(spec.linux?.intelRdt ?? {});
  const write = (file: string, text: string, field: string) =>
    plan.add("write_file", { path: file, data: Buffer.from(text) }, field);
  // A class with a name and without a schema of its own is somebody else's, and must be there.
  if (group.own || (lines.length > 0 && group.directory !== host.resctrl))
    plan.add("mkdir", { path: group.directory, mode: 0o755, existOk: 1, parents: 0 }, `${FIELD}.closID`);
  for (const { line, field } of lines) write(join(group.directory, "schemata"), `${line}\n`, field);
  write(join(group.directory, "tasks"), "0", FIELD);
  if (group.monitoring === undefined) return;
  plan.add("mkdir", { path: group.monitoring, mode: 0o755, existOk: 1, parents: 0 }, `${FIELD}.enableMonitoring`);
  write(join(group.monitoring, "tasks"), "0", `${FIELD}.enableMonitoring`);
}

/** One resource a line, each in a write of its own, so that an error names its field: l3CacheSchema, memBwSchema, schemata. */
function schemata({ l3CacheSchema = "", memBwSchema = "", schemata: more = [] }: oci.LinuxIntelRdt) {
  const texts = [
    { text: l3CacheSchema, field: `${FIELD}.l3CacheSchema` },
    { text: memBwSchema, field: `${FIELD}.memBwSchema` },
    ...more.map((text, index) => ({ text, field: `${FIELD}.schemata[${index}]` })),
  ];
  return texts.flatMap(({ text, field }) =>
    text
      .split("\n")
      .filter((line) => line.trim() !== "")
      .map((line) => ({ line, field })),
  );
}

/**
 * Other schemas for a container that is there, and the configuration that says so. One that was in no class gets one of its own.
 * Throws PlanError where the machine has not what a schema is for.
 */
export function intelRdtUpdate(
  spec: oci.Spec,
  { id, pid, host }: { readonly id: string; readonly pid: number; readonly host: HostFacts },
  changed: Pick<oci.LinuxIntelRdt, "l3CacheSchema" | "memBwSchema">,
): { readonly plan: Plan; readonly intelRdt: oci.LinuxIntelRdt } {
  const { l3CacheSchema, memBwSchema } = changed;
  // L3CODE and L3DATA where the cache is split between code and data (CDP).
  if (l3CacheSchema !== undefined && !["L3", "L3CODE"].some((name) => hasResource(host, name)))
    throw new PlanError("l3CacheSchema", "Intel RDT/CAT: l3 cache schema is not enabled");
  if (memBwSchema !== undefined && !hasResource(host, "MB"))
    throw new PlanError("memBwSchema", "Intel RDT/MBA: memory bandwidth schema is not enabled");
  const before = spec.linux?.intelRdt;
  const intelRdt = { ...before, ...changed };
  const group = groupOf({ ...spec, linux: { ...spec.linux, intelRdt } }, id, host);
  if (group === undefined) return { plan: { orders: [] }, intelRdt };
  const joined: Order[] =
    before !== undefined
      ? []
      : [
          { order: "mkdir", args: { path: group.directory, mode: 0o755, existOk: 1, parents: 0 }, because: FIELD },
          {
            order: "write_file",
            args: { path: join(group.directory, "tasks"), data: Buffer.from(String(pid)) },
            because: FIELD,
          },
        ];
  const written = schemata(changed).map(({ line, field }): Order => ({
    order: "write_file",
    args: { path: join(group.directory, "schemata"), data: Buffer.from(`${line}\n`) },
    because: field,
  }));
  return { plan: { orders: [...joined, ...written] }, intelRdt };
}

/** A resource that the kernel controls is a directory of resctrl's info. */
function hasResource({ resctrl }: HostFacts, name: string): boolean {
  return resctrl !== undefined && existsSync(join(resctrl, "info", name));
}

/** Takes away what intelRdt made; a class that was there before stays. */
export function intelRdtRemoval(spec: oci.Spec, id: string, host: HostFacts): Plan {
  const group = host.resctrl === undefined ? undefined : groupOf(spec, id, host);
  const made = group === undefined ? [] : [group.monitoring, group.own ? group.directory : undefined];
  return {
    orders: made
      .filter((path) => path !== undefined)
      .map((path): Order => ({ order: "rmdir", args: { path, children: 0 }, because: FIELD })),
  };
}
