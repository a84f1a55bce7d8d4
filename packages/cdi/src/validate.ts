/** What makes a specification valid beyond its form (SPEC.md), in the order in which the reference checks it. */
import type { FieldPath } from "./errors.ts";
import { classProblem, deviceNameProblem, qualifiedName, splitKind, vendorProblem } from "./names.ts";
import {
  type CdiDevice,
  type CdiHook,
  type CdiMount,
  type CdiSpec,
  type ContainerEdits,
  type DeviceNode,
  HOOK_NAMES,
  type IntelRdt,
  type NetDevice,
} from "./types.ts";
import { versionProblem } from "./version.ts";

export interface Problem {
  readonly path: FieldPath;
  /** Qualified, where the problem is a device's. */
  readonly device?: string | undefined;
  readonly what: string;
}

/** Permissions that ask for no rule to allow anything. */
export const NO_PERMISSIONS = "none";
const DEVICE_TYPES: readonly string[] = ["", "b", "c", "u", "p"];
/** PATH_MAX, which a directory of resctrl cannot exceed. */
const MAX_CLOS_ID = 4096;

/** The first problem; undefined: none. */
export function checkSpec(spec: CdiSpec): Problem | undefined {
  const { vendor, class: deviceClass } = splitKind(spec.kind);
  return (
    problem(["cdiVersion"], versionProblem(spec)) ??
    problem(["kind"], vendorProblem(vendor) ?? classProblem(deviceClass)) ??
    checkEdits(spec.containerEdits ?? {}, ["containerEdits"]) ??
    checkDevices(spec, vendor, deviceClass)
  );
}

function checkDevices(spec: CdiSpec, vendor: string, deviceClass: string): Problem | undefined {
  if (spec.devices.length === 0) return { path: ["devices"], what: "invalid spec, no devices" };
  const seen = new Set<string>();
  for (const [index, device] of spec.devices.entries()) {
    const path = ["devices", index];
    const found = checkDevice(device, path) ?? (seen.has(device.name) ? duplicate(device, path) : undefined);
    if (found) return { ...found, device: qualifiedName(vendor, deviceClass, device.name) };
    seen.add(device.name);
  }
  return undefined;
}

const duplicate = ({ name }: CdiDevice, path: FieldPath): Problem => ({
  path: [...path, "name"],
  what: `invalid spec, multiple device ${JSON.stringify(name)}`,
});

function checkDevice(device: CdiDevice, path: FieldPath): Problem | undefined {
  const edits = [...path, "containerEdits"];
  return (
    problem([...path, "name"], deviceNameProblem(device.name)) ??
    (isEmpty(device.containerEdits) ? { path: edits, what: "invalid device, empty device edits" } : undefined) ??
    checkEdits(device.containerEdits, edits)
  );
}

function isEmpty(edits: ContainerEdits): boolean {
  const { env, deviceNodes, netDevices, hooks, mounts, intelRdt, additionalGids } = edits;
  const lists = [env, deviceNodes, netDevices, hooks, mounts, additionalGids];
  return intelRdt === undefined && lists.every((list) => (list ?? []).length === 0);
}

function checkEdits(edits: ContainerEdits, path: FieldPath): Problem | undefined {
  return (
    checkEnv(edits.env, [...path, "env"]) ??
    each(edits.deviceNodes, [...path, "deviceNodes"], checkNode) ??
    each(edits.hooks, [...path, "hooks"], checkHook) ??
    each(edits.mounts, [...path, "mounts"], checkMount) ??
    checkRdt(edits.intelRdt, [...path, "intelRdt"]) ??
    checkNetDevices(edits.netDevices ?? [], [...path, "netDevices"])
  );
}

function checkEnv(env: readonly string[] | undefined, path: FieldPath): Problem | undefined {
  return each(env, path, (entry, at) =>
    entry.indexOf("=") <= 0 ? { path: at, what: `invalid environment variable ${JSON.stringify(entry)}` } : undefined,
  );
}

function checkNode(node: DeviceNode, path: FieldPath): Problem | undefined {
  if (node.path === "") return { path: [...path, "path"], what: "invalid (empty) device path" };
  const { type = "", permissions = "" } = node;
  const quoted = JSON.stringify(node.path);
  if (!DEVICE_TYPES.includes(type))
    return { path: [...path, "type"], what: `device ${quoted}: invalid type ${JSON.stringify(type)}` };
  if (permissions !== NO_PERMISSIONS && !/^[rwm]*$/.test(permissions))
    return {
      path: [...path, "permissions"],
      what: `device ${quoted}: invalid permissions ${JSON.stringify(permissions)}`,
    };
  return problem([...path, "path"], pathProblem(node.path)) ?? hostPathProblem(node.hostPath, path);
}

function hostPathProblem(hostPath: string | undefined, path: FieldPath): Problem | undefined {
  return hostPath ? problem([...path, "hostPath"], pathProblem(hostPath)) : undefined;
}

function checkHook(hook: CdiHook, path: FieldPath): Problem | undefined {
  const name = JSON.stringify(hook.hookName);
  if (!(HOOK_NAMES as readonly string[]).includes(hook.hookName))
    return { path: [...path, "hookName"], what: `invalid hook name ${name}` };
  if (hook.path === "") return { path: [...path, "path"], what: `invalid hook ${name} with empty path` };
  return problem([...path, "path"], pathProblem(hook.path)) ?? checkEnv(hook.env, [...path, "env"]);
}

function checkMount(mount: CdiMount, path: FieldPath): Problem | undefined {
  if (mount.hostPath === "") return { path: [...path, "hostPath"], what: "invalid mount, empty host path" };
  if (mount.containerPath === "")
    return { path: [...path, "containerPath"], what: "invalid mount, empty container path" };
  // The source of a tmpfs, say, is only a name.
  const source = mount.hostPath.includes("/") ? pathProblem(mount.hostPath) : undefined;
  return (
    problem([...path, "hostPath"], source) ?? problem([...path, "containerPath"], pathProblem(mount.containerPath))
  );
}

/** Beyond the reference: a path that climbs is a mistake or an attack, and no generator writes one. */
function pathProblem(path: string): string | undefined {
  if (!path.startsWith("/")) return `${JSON.stringify(path)} is not an absolute path`;
  if (path.split("/").includes("..")) return `${JSON.stringify(path)} climbs with "..": write the path it leads to`;
  return undefined;
}

function checkRdt(rdt: IntelRdt | undefined, path: FieldPath): Problem | undefined {
  const { closID = "" } = rdt ?? {};
  const bad = closID !== "/" && (closID.length >= MAX_CLOS_ID || [".", ".."].includes(closID) || /[/\n]/.test(closID));
  return bad ? { path: [...path, "closID"], what: `invalid ClosID ${JSON.stringify(closID)}` } : undefined;
}

function checkNetDevices(devices: readonly NetDevice[], path: FieldPath): Problem | undefined {
  const hosts = new Map<string, NetDevice>();
  const names = new Map<string, NetDevice>();
  for (const [index, device] of devices.entries()) {
    const at = [...path, index];
    const { hostInterfaceName: host, name } = device;
    if (host === "") return { path: at, what: "invalid linux net device, empty HostInterfaceName" };
    if (name === "") return { path: at, what: "invalid linux net device, empty Name" };
    const sameHost = hosts.get(host);
    if (sameHost)
      return {
        path: at,
        what: `invalid linux net device, duplicate HostInterfaceName "${host}" with names "${name}" and "${sameHost.name}"`,
      };
    const sameName = names.get(name);
    if (sameName)
      return {
        path: at,
        what: `invalid linux net device, duplicate Name "${name}" with HostInterfaceName "${host}" and "${sameName.hostInterfaceName}"`,
      };
    hosts.set(host, device);
    names.set(name, device);
  }
  return undefined;
}

function each<T>(
  list: readonly T[] | undefined,
  path: FieldPath,
  check: (item: T, at: FieldPath) => Problem | undefined,
): Problem | undefined {
  for (const [index, item] of (list ?? []).entries()) {
    const found = check(item, [...path, index]);
    if (found) return found;
  }
  return undefined;
}

function problem(path: FieldPath, what: string | undefined): Problem | undefined {
  return what === undefined ? undefined : { path, what };
}
