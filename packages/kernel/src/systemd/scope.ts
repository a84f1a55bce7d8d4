/** A container's unit: made with somebody in it, kept in step with its limits, and stopped. */
import { readFile } from "node:fs/promises";
import type { oci } from "@berth/spec";
import type { HostFacts } from "../host.ts";
import { annotatedProperties } from "./annotations.ts";
import type { SystemdManager } from "./manager.ts";
import type { SystemdPlace } from "./names.ts";
import { resourceProperties, unitProperties, type PropertyContext } from "./properties.ts";

export interface ScopeRequest {
  readonly place: SystemdPlace;
  /**
   * Who is in the scope from its beginning: systemd takes none that is empty, and removes it with its last process. One that
   * only waits will do, until the container's own has joined the cgroup.
   */
  readonly pids: readonly number[];
  readonly host: HostFacts;
  readonly resources?: oci.LinuxResources | undefined;
  /** Of the container: org.systemd.property.* become properties. */
  readonly annotations?: Readonly<Record<string, string>> | undefined;
}

/**
 * The unit is there, delegated, with its limits, when this resolves; the plan of the container then makes and writes the
 * cgroup at `place.path` as it would any other. Rejects with DBusError or ResourceError.
 */
export async function startScope(manager: SystemdManager, request: ScopeRequest): Promise<void> {
  const { place, pids, host, resources = {}, annotations } = request;
  const context = await contextOf(manager, host);
  await manager.start({
    name: place.unit,
    properties: [
      ...unitProperties(place.unit, place.slice, pids, context),
      ...resourceProperties(resources, context),
      ...annotatedProperties(annotations),
    ],
  });
}

/** Before the cgroup's own files are written: systemd writes what it knows of whenever it likes. */
export async function updateScope(
  manager: SystemdManager,
  place: SystemdPlace,
  resources: oci.LinuxResources,
  host: HostFacts,
): Promise<void> {
  const properties = resourceProperties(resources, await contextOf(manager, host));
  if (properties.length > 0) await manager.setProperties(place.unit, properties);
}

/** Once it is empty; one that is gone already is success. */
export async function stopScope(manager: SystemdManager, place: SystemdPlace): Promise<void> {
  await manager.stop(place.unit);
}

async function contextOf(manager: SystemdManager, host: HostFacts): Promise<PropertyContext> {
  return {
    version: host.cgroups.mode === "v2" ? "v2" : "v1",
    systemd: await manager.version(),
    devices: await readFile("/proc/devices", "utf8"),
  };
}
