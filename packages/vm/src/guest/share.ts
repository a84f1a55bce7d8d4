/** A container's part of its machine's share: what of the host its config names is brought there, or is refused by name. */
import { mkdir, readFile, stat, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { type Hand, type HostFacts, type Order, parseMountInfo } from "@berth/kernel";
import { planRootfsMount, type Rootfs } from "@berth/runtime";
import type { oci } from "@berth/spec";
import { VmError } from "../errors.ts";
import { GUEST_ROOTS, ROOTS_TAG, shareWritable } from "../sandbox/host.ts";
import type { PodMachine } from "../sandbox/machine.ts";
import { shareMountOrders, unmountOrder } from "../sandbox/share.ts";
import { releaseCopies } from "../storage/copies.ts";
import { plugDevices } from "../storage/devices.ts";
import { plugRootfs, releaseContainerDisks } from "../storage/rootfs.ts";
import { hasShare, isBerths, placeVolume } from "../storage/volumes.ts";

/** Namespaces that a pod's containers share by being in one machine. */
const MACHINES_OWN = new Set<oci.NamespaceType>(["network", "ipc", "uts", "user", "time"]);

export interface SharedContainer {
  readonly id: string;
  /** Its paths are the host's. */
  readonly spec: oci.Spec;
  readonly rootfs: Rootfs;
  /** On the host: mounts of it become the machine's own. */
  readonly shm: string;
  /** Told, as long as the container is there, when a change of a copied volume could not be taken over. */
  readonly warn: (message: string) => void;
}

/** A guest that hangs must not keep its pod from ending. */
const WITHIN = { timeoutMs: 10_000 };

/** In the share's writable view. */
const hostShare = (machine: PodMachine, id: string): string => join(shareWritable(machine.directory), id);

/**
 * Brings the container's root file system and volumes into the machine, and answers its config as the guest has it. Rejects with
 * VmError Unsupported, naming the field, for what cannot be in a machine.
 */
export async function shareContainer(
  { hand, host }: { readonly hand: Hand; readonly host: HostFacts },
  machine: PodMachine,
  { id, spec, rootfs, shm, warn }: SharedContainer,
): Promise<oci.Spec> {
  const { places } = machine.runtime;
  const base = hostShare(machine, id);
  const orders: Order[] = [];
  const mounts: oci.Mount[] = [];
  const hugepageLimits = spec.linux?.resources?.hugepageLimits ?? [];
  await mkdir(join(base, "mounts"), { recursive: true, mode: 0o755 });
  for (const [index, mount] of (spec.mounts ?? []).entries()) {
    if (!isBind(mount)) mounts.push(mount);
    else if (mount.source === shm) mounts.push({ ...mount, source: places.shm });
    else {
      const [name, field] = [`mounts/${index}`, `mounts[${index}]`];
      await checkVolume(mount, field);
      const volume = { mount, field, name: String(index), hugepageLimits };
      const there = await placeVolume(hand, machine, id, volume, warn);
      if (there === undefined) orders.push(...(await shareVolume(mount, join(base, name))));
      const options = guestOptions(mount.options ?? [], there === undefined && (await mayHoldMounts(mount)));
      mounts.push({ ...mount, source: there ?? `${places.share}/${id}/${name}`, options });
    }
  }
  let root = `${rootsOf(machine.machine, machine.runtime)}/${id}/rootfs`;
  if (asDisks(machine, rootfs)) {
    root = await plugRootfs(hand, machine, id, rootfs);
  } else {
    await mkdir(join(base, "rootfs"), { recursive: true, mode: 0o755 });
    await hand.run(planRootfsMount(rootfs, join(base, "rootfs"), host, { attributes: 0n }));
  }
  if (orders.length > 0) await hand.run({ orders });
  const devices = spec.linux && isBerths(machine) ? await plugDevices(machine, id, spec.linux) : {};
  const linux = spec.linux && { ...spec.linux, ...devices };
  return guestSpec(machine, { ...spec, mounts, ...(linux && { linux }) }, root);
}

/** As Kata: where there are block devices to a root file system and nothing says that they are not to be used; and where nothing is shared. */
function asDisks(machine: PodMachine, rootfs: Rootfs): boolean {
  if (!hasShare(machine)) return true;
  const hasImages = rootfs.kind === "overlay" && rootfs.images !== undefined;
  return hasImages && isBerths(machine) && !machine.settings.hypervisor.disable_block_device_use;
}

/** What of a container's the guest has besides the container itself; idempotent. Rejects where the guest does not answer. */
export async function releaseStorage(machine: PodMachine, id: string): Promise<void> {
  await releaseCopies(machine, id, WITHIN);
  await releaseContainerDisks(machine, id, WITHIN);
}

/** Takes it away, however far it came; idempotent. */
export async function unshareContainer(hand: Hand, machine: PodMachine, id: string): Promise<void> {
  const base = hostShare(machine, id);
  await hand.run({
    orders: [...(await mountsBelow(base)).map(unmountOrder), { order: "remove_tree", args: { path: base } }],
  });
}

/** Deepest first. */
async function mountsBelow(directory: string): Promise<string[]> {
  const mounts = parseMountInfo(await readFile("/proc/self/mountinfo", "utf8"));
  return mounts
    .map(({ target }) => target)
    .filter((target) => target.startsWith(`${directory}/`))
    .toReversed();
}

const unsupported = (message: string): VmError => new VmError("Unsupported", message);

const isBind = ({ type, options }: oci.Mount): boolean =>
  type === "bind" || (options ?? []).some((option) => option === "bind" || option === "rbind");

async function checkVolume(mount: oci.Mount, field: string): Promise<void> {
  const source = mount.source ?? "";
  if (mount.uidMappings) throw unsupported(`${field}: the owners of a volume cannot be mapped in a virtual machine`);
  if (mount.options?.some((option) => /^r?shared$/.test(option)))
    throw unsupported(
      `${field}: what a virtual machine mounts cannot propagate to the node; use HostToContainer or None for ${mount.destination}`,
    );
  const about = await stat(source);
  if (!about.isDirectory() && !about.isFile())
    throw unsupported(
      `${field}: "${source}" is neither a file nor a directory; sockets, pipes and devices of the node cannot be reached from a virtual machine`,
    );
}

async function shareVolume(mount: oci.Mount, path: string): Promise<Order[]> {
  const source = mount.source ?? "";
  const about = await stat(source);
  await mkdir(dirname(path), { recursive: true, mode: 0o755 });
  if (about.isDirectory()) await mkdir(path, { mode: 0o755 });
  else await writeFile(path, "", { mode: 0o644 });
  const { options = [] } = mount;
  return shareMountOrders(path, {
    source,
    recursive: options.includes("rbind"),
    // What may not be written must not be writable behind the guest's back either.
    readonly: options.includes("rro") ? "all" : options.includes("ro") ? "volume" : "no",
  });
}

/**
 * Mounts of the host do not propagate into a machine as such: they appear in its share. So the guest has one mount for a volume and all that
 * is mounted in it: where that keeps its own right to be written (`holdsMounts`), what says so is the host's mounts alone.
 */
function guestOptions(options: readonly string[], holdsMounts: boolean): string[] {
  const own = holdsMounts && !options.includes("rro") ? options.filter((option) => option !== "ro") : options;
  return own.map((option) => (/^r?(shared|slave)$/.test(option) ? "rprivate" : option === "rro" ? "ro" : option));
}

/** Whether something is mounted in the volume, or may come to be. */
async function mayHoldMounts({ source = "", options = [] }: oci.Mount): Promise<boolean> {
  if (!options.includes("rbind")) return false;
  return options.includes("rslave") || (await mountsBelow(source)).length > 0;
}

/** Root file systems have a share of their own, where the guest keeps what it has read of them. */
const rootsOf = ({ shares }: PodMachine["machine"], { places }: PodMachine["runtime"]): string =>
  shares.some(({ tag }) => tag === ROOTS_TAG) ? GUEST_ROOTS : places.share;

function guestSpec({ settings }: PodMachine, spec: oci.Spec, root: string): oci.Spec {
  const { linux, process, ...rest } = spec;
  const { seccomp, namespaces, rootfsPropagation: _, cgroupsPath: __, ...own } = linux ?? {};
  if (spec.hooks) throw unsupported("hooks: a guest has no programs that they could be");
  const { apparmorProfile: ___, selinuxLabel: ____, ...plain } = process ?? {};
  return {
    ...rest,
    ...(process && { process: plain as oci.Process }),
    root: { path: root, readonly: spec.root?.readonly === true },
    linux: {
      ...own,
      namespaces: (namespaces ?? []).filter(({ type }) => !MACHINES_OWN.has(type)),
      ...(seccomp && !settings.runtime.disable_guest_seccomp && { seccomp }),
    },
  };
}
