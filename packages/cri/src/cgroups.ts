/**
 * Where the cgroups of pods and their containers are: directories (the cgroupfs driver) or systemd's scopes in slices, as the pod's
 * runtime handler says and the kubelet's cgroup parent must agree. Names are containerd's: cAdvisor looks for them.
 */
import { basename } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { slicePath, systemdPlace } from "@berth/kernel";
import { cgroupRemoval } from "@berth/runtime";
import type { oci } from "@berth/spec";
import type { CriContext } from "./context.ts";
import { invalid } from "./errors.ts";
import type { ContainerRecord, SandboxRecord } from "./store/records.ts";

/** Of a scope's name. */
const PREFIX = "cri-containerd";
/** How long an exit waits for systemd. */
const STOP_MS = 2_000;
/** How long a scope is to be stopped for: one whose cgroup went while systemd re-executed itself it never finds empty. */
const STOP_PATIENCE_MS = 300_000;

/** Of a container or a pod's init. */
export type Cgroup = Pick<ContainerRecord, "cgroupPath" | "unit">;
interface ScopeContent {
  readonly pid: number;
  readonly resources?: oci.LinuxResources | undefined;
  /** org.systemd.property.* become properties. */
  readonly annotations?: Readonly<Record<string, string>> | undefined;
}
type Pod = Pick<SandboxRecord, "config" | "systemdCgroup">;

const FIELD = "linux.cgroup_parent";

/** What a kubelet of one driver says to a handler of the other. Throws InvalidArgument. */
export function checkCgroupParent(pod: Pod): void {
  const parent = parentOf(pod);
  if (parent.includes("..")) throw invalid(`${FIELD}: "${parent}" must not contain ".."`);
  if (pod.systemdCgroup !== true) {
    if (!isSlice(parent)) return;
    throw invalid(
      `${FIELD}: "${parent}" is a systemd slice, and the pod's runtime handler makes cgroups by the cgroupfs driver; set SystemdCgroup = true in the handler's options, or cgroupDriver: cgroupfs in the kubelet's configuration`,
    );
  }
  if (parent === "") return;
  if (!isSlice(parent)) {
    throw invalid(
      `${FIELD}: "${parent}" is no systemd slice, and the pod's runtime handler has SystemdCgroup = true; set cgroupDriver: systemd in the kubelet's configuration, or SystemdCgroup = false in the handler's options`,
    );
  }
  try {
    slicePath(basename(parent));
  } catch (error) {
    throw invalid(`${FIELD}: ${(error as Error).message}`);
  }
}

const parentOf = ({ config }: Pod): string => config.linux?.cgroupParent ?? "";
const isSlice = (parent: string): boolean => basename(parent).endsWith(".slice");

/** Above all of a pod's cgroups; "" is the root. */
export function cgroupParentOf(context: CriContext, pod: Pod): string {
  if (pod.systemdCgroup === true) return slicePath(sliceOf(context, pod));
  const parent = parentOf(pod);
  // A relative one is taken from the root, as containerd does.
  return parent === "" ? context.config.cgroupRoot : `/${parent}`.replace(/^\/+/, "/").replace(/\/+$/, "");
}

/** Of "/a.slice/a-b.slice", as the kubelet says it, the last one counts: its name says what is above it. */
function sliceOf({ config }: CriContext, pod: Pod): string {
  return basename(parentOf(pod)) || `${basename(config.cgroupRoot)}.slice`;
}

/** Of one container, or of the pod's init by the pod's id. */
export function cgroupOf(context: CriContext, pod: Pod, id: string): Cgroup {
  if (pod.systemdCgroup !== true) return { cgroupPath: `${cgroupParentOf(context, pod)}/${id}` };
  const unit = systemdPlace(`${sliceOf(context, pod)}:${PREFIX}:${id}`, id);
  return { cgroupPath: unit.path, unit };
}

/** Of one container, as an NRI plugin wants it: a path, or "slice:prefix:name" under systemd. Throws InvalidArgument. */
export function cgroupAt(pod: Pod, id: string, path: string): Cgroup {
  if (path.includes("..")) throw invalid(`linux.cgroups_path: "${path}" must not contain ".."`);
  if (pod.systemdCgroup !== true)
    return { cgroupPath: `/${path}`.replace(/^\/+/, "/").replace(/\/+$/, ""), unit: undefined };
  try {
    const unit = systemdPlace(path, id);
    return { cgroupPath: unit.path, unit };
  } catch (error) {
    throw invalid(`linux.cgroups_path: ${(error as Error).message}`);
  }
}

/** linux.cgroupsPath: what an OCI runtime with --systemd-cgroup is told is "slice:prefix:name". */
export function cgroupsPathOf({ cgroupPath, unit }: Cgroup, id: string): string {
  return unit === undefined ? cgroupPath : `${unit.slice}:${PREFIX}:${id}`;
}

/**
 * Makes the cgroup of a process that waits in it a scope. Last, for systemd takes no scope without a process; from then on it
 * holds it to its limits too. Rejects with DBusError.
 */
export async function joinScope(
  { systemd, host }: CriContext,
  { unit }: Cgroup,
  { pid, resources, annotations }: ScopeContent,
  signal: AbortSignal,
): Promise<void> {
  if (unit !== undefined) await systemd.start({ place: unit, pids: [pid], host, resources, annotations }, signal);
}

/** Of one that is empty. Idempotent; a systemd that cannot be reached is only warned about. */
export async function removeCgroup(context: CriContext, { cgroupPath, unit }: Cgroup): Promise<void> {
  await context.hand.run(cgroupRemoval(cgroupPath, context.host));
  if (unit === undefined) return;
  const stopped = context.systemd
    .stop(unit, undefined, STOP_PATIENCE_MS)
    .catch((error: unknown) =>
      context.log.warn({ err: error, unit: unit.unit }, "could not have systemd stop a scope that is empty"),
    );
  await Promise.race([stopped, delay(STOP_MS, undefined, { ref: false })]);
}
