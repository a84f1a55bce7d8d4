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

/** Namespaces that a pod's containers share by being in one machine. */
const MACHINES_OWN = new Set<oci.NamespaceType>(["network", "ipc", "uts", "user", "time"]);

export interface SharedContainer {
  readonly id: string;
  /** Its paths are the host's. */
  readonly spec: oci.Spec;
  readonly rootfs: Rootfs;
  /** On the host: mounts of it become the machine's own. */
  readonly shm: string;
}

/** In the share's writable view. */
const hostShare = (machine: PodMachine, id: string): string => join(shareWritable(machine.directory), id);

/**
 * Mounts the container's root file system and volumes into the machine's share, and answers its config as the guest has it. Rejects with
 * VmError Unsupported, naming the field, for what cannot be in a machine.
 */
export async function shareContainer(
  { hand, host }: { readonly hand: Hand; readonly host: HostFacts },
  machine: PodMachine,
  { id, spec, rootfs, shm }: SharedContainer,
): Promise<oci.Spec> {
  const shared = machine.settings.hypervisor.shared_fs;
  if (shared !== "virtio-fs")
    throw unsupported(
      `shared_fs: with "${shared}" nothing of the node reaches the machine; set shared_fs = "virtio-fs"`,
    );
  const { places } = machine.runtime;
  const base = hostShare(machine, id);
  await mkdir(join(base, "rootfs"), { recursive: true, mode: 0o755 });
  await mkdir(join(base, "mounts"), { mode: 0o755 });
  const orders: Order[] = [];
  const mounts: oci.Mount[] = [];
  for (const [index, mount] of (spec.mounts ?? []).entries()) {
    if (!isBind(mount)) mounts.push(mount);
    else if (mount.source === shm) mounts.push({ ...mount, source: places.shm });
    else {
      const name = `mounts/${index}`;
      orders.push(...(await shareVolume(mount, join(base, name), `mounts[${index}]`)));
      mounts.push({ ...mount, source: `${places.share}/${id}/${name}`, options: guestOptions(mount.options ?? []) });
    }
  }
  await hand.run(planRootfsMount(rootfs, join(base, "rootfs"), host, { attributes: 0n }));
  if (orders.length > 0) await hand.run({ orders });
  return guestSpec(machine, { ...spec, mounts }, id);
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

async function shareVolume(mount: oci.Mount, path: string, field: string): Promise<Order[]> {
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
  await mkdir(dirname(path), { recursive: true, mode: 0o755 });
  if (about.isDirectory()) await mkdir(path, { mode: 0o755 });
  else await writeFile(path, "", { mode: 0o644 });
  const { options = [] } = mount;
  return shareMountOrders(path, {
    source,
    recursive: options.includes("rbind"),
    // What may not be written must not be writable behind the guest's back either.
    readonly: options.includes("ro") || options.includes("rro"),
  });
}

/** Mounts of the host do not propagate into a machine as such: they appear in its share. */
function guestOptions(options: readonly string[]): string[] {
  return options.map((option) => (/^r?(shared|slave)$/.test(option) ? "rprivate" : option));
}

/** Root file systems have a share of their own, where the guest keeps what it has read of them. */
const rootsOf = ({ shares }: PodMachine["machine"], { places }: PodMachine["runtime"]): string =>
  shares.some(({ tag }) => tag === ROOTS_TAG) ? GUEST_ROOTS : places.share;

function guestSpec({ machine, runtime, settings }: PodMachine, spec: oci.Spec, id: string): oci.Spec {
  const { linux, process, ...rest } = spec;
  const { seccomp, namespaces, rootfsPropagation: _, cgroupsPath: __, ...own } = linux ?? {};
  if (spec.hooks) throw unsupported("hooks: a guest has no programs that they could be");
  const { apparmorProfile: ___, selinuxLabel: ____, ...plain } = process ?? {};
  return {
    ...rest,
    ...(process && { process: plain as oci.Process }),
    root: { path: `${rootsOf(machine, runtime)}/${id}/rootfs`, readonly: spec.root?.readonly === true },
    linux: {
      ...own,
      namespaces: (namespaces ?? []).filter(({ type }) => !MACHINES_OWN.has(type)),
      ...(seccomp && !settings.runtime.disable_guest_seccomp && { seccomp }),
    },
  };
}
