/** Container edits made to an OCI configuration, in the reference's order. The configuration that is given is not changed. */
import type { oci } from "@berth/spec";
import { CdiError, type Place } from "./errors.ts";
import { ociDevice, type HostDevices } from "./device-node.ts";
import { withOrigin } from "./origins.ts";
import type { CdiMount, ContainerEdits, DeviceNode, HookName } from "./types.ts";
import { NO_PERMISSIONS } from "./validate.ts";

/** Edits of one specification or device, and whose they are, for what goes wrong with them. */
export interface SourcedEdits {
  readonly edits: ContainerEdits;
  readonly file?: string | undefined;
  /** Absent: a specification's own edits. */
  readonly device?: string | undefined;
}

type Draft<T> = { -readonly [K in keyof T]: T[K] };

/**
 * All of `sources` as one: environment, device nodes, network devices, mounts, hooks, resctrl, groups, each kind in the
 * order of its sources. Throws CdiError naming file, device and field; nothing is half done, because the result is a copy.
 */
export async function applyEdits(
  spec: oci.Spec,
  sources: readonly SourcedEdits[],
  hostDevices: HostDevices,
): Promise<oci.Spec> {
  const next: Draft<oci.Spec> = { ...spec };
  const env = sources.flatMap(({ edits }) => edits.env ?? []);
  if (env.length > 0) next.process = { ...processOf(next), env: withEnv(next.process?.env ?? [], env) };
  await addDevices(next, sources, hostDevices);
  addNetDevices(next, sources);
  if (sources.some(({ edits }) => edits.mounts?.length)) next.mounts = withMounts(spec, sources);
  addHooks(next, sources);
  const rdt = sources.findLast(({ edits }) => edits.intelRdt !== undefined)?.edits.intelRdt;
  if (rdt !== undefined) next.linux = { ...next.linux, intelRdt: { ...rdt } };
  addGroups(
    next,
    sources.flatMap(({ edits }) => edits.additionalGids ?? []),
  );
  return next;
}

function processOf(spec: oci.Spec): oci.Process {
  return spec.process ?? { user: { uid: 0, gid: 0 }, cwd: "" };
}

/** A variable that is there keeps its place; of several of one name the last is the one that counts, and is replaced. */
function withEnv(env: readonly string[], edits: readonly string[]): string[] {
  const result = [...env];
  const places = new Map(result.map((entry, index) => [keyOf(entry), index]));
  for (const entry of edits) {
    const place = places.get(keyOf(entry)) ?? result.length;
    result[place] = entry;
    places.set(keyOf(entry), place);
  }
  return result;
}

const keyOf = (entry: string): string => entry.split("=", 1)[0] ?? "";

async function addDevices(spec: Draft<oci.Spec>, sources: readonly SourcedEdits[], host: HostDevices): Promise<void> {
  const wanted = sources.flatMap((source) => (source.edits.deviceNodes ?? []).map((node) => ({ node, source })));
  if (wanted.length === 0) return;
  const { uid = 0, gid = 0 } = spec.process?.user ?? {};
  const filled = await Promise.all(
    wanted.map(async ({ node, source }) => ({ node, source, device: await filledIn(node, source, host) })),
  );
  let devices = [...(spec.linux?.devices ?? [])];
  const rules = [...(spec.linux?.resources?.devices ?? [])];
  for (const { node, source, device } of filled) {
    const owned: oci.LinuxDevice = {
      ...device,
      ...(device.uid === undefined && uid > 0 && { uid }),
      ...(device.gid === undefined && gid > 0 && { gid }),
    };
    devices = replaceDevice(devices, withOrigin(owned, placeOf(source, "deviceNodes", node.path)));
    if (owned.type === "b" || owned.type === "c")
      rules.push({ allow: true, type: owned.type, major: owned.major, minor: owned.minor, ...access(node) });
  }
  spec.linux = { ...spec.linux, devices, resources: { ...spec.linux?.resources, devices: rules } };
}

async function filledIn(node: DeviceNode, source: SourcedEdits, host: HostDevices): Promise<oci.LinuxDevice> {
  try {
    return await ociDevice(node, host);
  } catch (error) {
    throw new CdiError(placeOf(source, "deviceNodes", node.path), (error as Error).message, { cause: error });
  }
}

const placeOf = ({ file, device }: SourcedEdits, field: string, name: string): Place => ({
  file,
  device,
  field: `${field} ${JSON.stringify(name)}`,
});

/** "none" is a rule that allows nothing; it is there all the same. */
function access({ permissions = "" }: DeviceNode): { access?: string } {
  if (permissions === NO_PERMISSIONS) return { access: "" };
  return { access: permissions === "" ? "rwm" : permissions };
}

/** The first of that path goes; if there is yet another, the device takes its place. */
function replaceDevice(devices: readonly oci.LinuxDevice[], device: oci.LinuxDevice): oci.LinuxDevice[] {
  const same = devices.findIndex(({ path }) => path === device.path);
  const left = same < 0 ? [...devices] : devices.toSpliced(same, 1);
  const other = left.findIndex(({ path }) => path === device.path);
  return other < 0 ? [...left, device] : left.with(other, device);
}

function addNetDevices(spec: Draft<oci.Spec>, sources: readonly SourcedEdits[]): void {
  const wanted = sources.flatMap(({ edits }) => edits.netDevices ?? []);
  if (wanted.length === 0) return;
  const added = wanted.map(({ hostInterfaceName, name }) => [hostInterfaceName, { name }] as const);
  spec.linux = { ...spec.linux, netDevices: { ...spec.linux?.netDevices, ...Object.fromEntries(added) } };
}

/** Afterwards all mounts are in the order of their depth, so that none hides what was mounted below it. */
function withMounts(spec: oci.Spec, sources: readonly SourcedEdits[]): oci.Mount[] {
  const mounts = [...(spec.mounts ?? [])];
  const inUserns = spec.linux?.namespaces?.some(({ type }) => type === "user") === true;
  const wanted = sources.flatMap((source) => (source.edits.mounts ?? []).map((mount) => ({ mount, source })));
  for (const { mount, source } of wanted) {
    const same = mounts.findIndex(({ destination }) => destination === mount.containerPath);
    if (same >= 0) mounts.splice(same, 1);
    mounts.push(withOrigin(ociMount(mount, inUserns), placeOf(source, "mounts", mount.containerPath)));
  }
  return mounts.sort((a, b) => depth(a.destination) - depth(b.destination));
}

function ociMount({ hostPath, containerPath, options = [], type }: CdiMount, inUserns: boolean): oci.Mount {
  const idmap = inUserns ? idmapOption(options, type) : [];
  return {
    destination: containerPath,
    ...(type && { type }),
    source: hostPath,
    ...(options.length + idmap.length > 0 && { options: [...options, ...idmap] }),
  };
}

/** In a user namespace a bind mount's files keep their owners only when the mount is mapped as the container is. */
function idmapOption(options: readonly string[], type: string | undefined): string[] {
  if (options.includes("idmap") || options.includes("ridmap")) return [];
  const bind = options.findLast((option) => option === "bind" || option === "rbind");
  if (bind !== undefined) return [bind === "rbind" ? "ridmap" : "idmap"];
  return type === "bind" ? ["idmap"] : [];
}

const depth = (path: string): number => path.split("/").filter((part) => part !== "" && part !== ".").length;

function addHooks(spec: Draft<oci.Spec>, sources: readonly SourcedEdits[]): void {
  const wanted = sources.flatMap((source) => (source.edits.hooks ?? []).map((hook) => ({ hook, source })));
  if (wanted.length === 0) return;
  const hooks: { -readonly [K in HookName]?: readonly oci.Hook[] | undefined } = { ...spec.hooks };
  for (const { hook, source } of wanted) {
    const { hookName, ...own } = hook;
    const placed = withOrigin(own, placeOf(source, "hooks", hook.path));
    hooks[hookName as HookName] = [...(hooks[hookName as HookName] ?? []), placed];
  }
  spec.hooks = hooks;
}

function addGroups(spec: Draft<oci.Spec>, gids: readonly number[]): void {
  const wanted = gids.filter((gid) => gid !== 0);
  if (wanted.length === 0) return;
  const process = processOf(spec);
  const additionalGids = [...new Set([...(process.user.additionalGids ?? []), ...wanted])];
  spec.process = { ...process, user: { ...process.user, additionalGids } };
}
