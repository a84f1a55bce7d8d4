/** A container's OCI config as its guest takes it: what of the host it names is brought there first, or is refused. */
import { stat, writeFile, mkdir } from "node:fs/promises";
import { dirname, join } from "node:path";
import type { Order } from "@berth/kernel";
import { planRootfsMount } from "@berth/runtime";
import type { oci } from "@berth/spec";
import { GUEST_SHARE, GUEST_SHM, type PodMachine, shareMountOrders, shareWritable } from "@berth/vm";
import type { CriContext } from "../../context.ts";
import { unimplemented } from "../../errors.ts";
import { shmPath, podNamespaces } from "../../sandbox/namespaces.ts";
import type { ContainerRecord } from "../../store/records.ts";
import type { Creation } from "../kind.ts";

/** Namespaces that a pod's containers share by being in one machine. */
const MACHINES_OWN = new Set<oci.NamespaceType>(["network", "ipc", "uts", "user", "time"]);

/** Of a container in the share's writable view, and as the guest sees it. */
export const hostShare = (machine: PodMachine, id: string): string => join(shareWritable(machine.directory), id);
export const guestShare = (id: string): string => `${GUEST_SHARE}/${id}`;

/** Mounts the container's root file system and volumes into the machine's share, and says how the guest's container has them. */
export async function shareContainer(context: CriContext, machine: PodMachine, creation: Creation): Promise<oci.Spec> {
  const { container, spec, rootfs, sandbox } = creation;
  const { id } = container.record;
  const shared = machine.settings.hypervisor.shared_fs;
  if (shared !== "virtio-fs")
    throw unimplemented(
      `shared_fs: with "${shared}" nothing of the node reaches the machine; set shared_fs = "virtio-fs"`,
    );
  const base = hostShare(machine, id);
  await mkdir(join(base, "rootfs"), { recursive: true, mode: 0o755 });
  await mkdir(join(base, "mounts"), { mode: 0o755 });
  const shm = shmPath(context, sandbox.record.id, podNamespaces(sandbox.record.config));
  const orders: Order[] = [];
  const mounts: oci.Mount[] = [];
  for (const [index, mount] of (spec.mounts ?? []).entries()) {
    if (!isBind(mount)) mounts.push(mount);
    else if (mount.source === shm) mounts.push({ ...mount, source: GUEST_SHM });
    else {
      const name = `mounts/${index}`;
      orders.push(...(await shareVolume(mount, join(base, name), `mounts[${index}]`)));
      mounts.push({ ...mount, source: `${guestShare(id)}/${name}`, options: guestOptions(mount.options ?? []) });
    }
  }
  const root = planRootfsMount(rootfs, join(base, "rootfs"), context.host, { attributes: 0n });
  await context.hand.run(root);
  if (orders.length > 0) await context.hand.run({ orders });
  return guestSpec(machine, { ...spec, mounts }, container.record);
}

const isBind = ({ type, options }: oci.Mount): boolean =>
  type === "bind" || (options ?? []).some((option) => option === "bind" || option === "rbind");

async function shareVolume(mount: oci.Mount, path: string, field: string): Promise<Order[]> {
  const source = mount.source ?? "";
  if (mount.uidMappings) throw unimplemented(`${field}: the owners of a volume cannot be mapped in a virtual machine`);
  if (mount.options?.some((option) => /^r?shared$/.test(option)))
    throw unimplemented(
      `${field}: what a virtual machine mounts cannot propagate to the node; use HostToContainer or None for ${mount.destination}`,
    );
  const about = await stat(source);
  if (!about.isDirectory() && !about.isFile())
    throw unimplemented(
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

function guestSpec(machine: PodMachine, spec: oci.Spec, record: ContainerRecord): oci.Spec {
  const { linux, process, ...rest } = spec;
  const { seccomp, namespaces, rootfsPropagation: _, ...own } = linux ?? {};
  if (spec.hooks) throw unimplemented("hooks: a guest has no programs that they could be");
  const { apparmorProfile: __, selinuxLabel: ___, ...plain } = process ?? {};
  return {
    ...rest,
    ...(process && { process: plain as oci.Process }),
    root: { path: `${guestShare(record.id)}/rootfs`, readonly: spec.root?.readonly === true },
    linux: {
      ...own,
      cgroupsPath: guestCgroup(record.id),
      namespaces: (namespaces ?? []).filter(({ type }) => !MACHINES_OWN.has(type)),
      ...(seccomp && !machine.settings.runtime.disable_guest_seccomp && { seccomp }),
    },
  };
}

export const guestCgroup = (id: string): string => `/berth/${id}`;
