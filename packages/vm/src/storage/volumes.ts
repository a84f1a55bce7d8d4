/** How a volume of the host's gets into a machine: shared, as a copy that is kept up to date, or as what the guest has instead of it. */
import type { Stats } from "node:fs";
import { stat, statfs } from "node:fs/promises";
import type { Hand } from "@berth/kernel";
import type { oci } from "@berth/spec";
import { VmError } from "../errors.ts";
import type { PodMachine } from "../sandbox/machine.ts";
import { copyVolume, type Say } from "./copies.ts";
import { findDirectVolume, plugDirectVolume } from "./direct-volumes.ts";
import { plugEmptyDirectory } from "./empty-directory.ts";
import { HUGETLBFS, plugHugePages } from "./huge-pages.ts";
import { readTree } from "./tree.ts";

/** Volumes of the kubelet's that it changes while containers run, by exchanging a link. */
const KEPT = /\/volumes\/kubernetes\.io~(configmap|secret|projected|downward-api)\/[^/]+\/?$/;
const EMPTY = /\/volumes\/kubernetes\.io~empty-dir\/[^/]+\/?$/;
const TMPFS = 0x01021994;

export interface Volume {
  readonly mount: oci.Mount;
  /** Of the container's config, as "mounts[3]". */
  readonly field: string;
  readonly name: string;
  /** Of the container. */
  readonly hugepageLimits: readonly oci.LinuxHugepageLimit[];
}

/** Whether the machine has a share that volumes could be mounted into. */
export const hasShare = ({ machine }: Pick<PodMachine, "machine">): boolean =>
  machine.shares.length > 0 || machine.nine !== undefined;

/** Whether its guest takes plans; Kata's agent does what it is asked by its own means. */
export const isBerths = ({ machine }: Pick<PodMachine, "machine">): boolean => machine.agent === undefined;

/** Where the guest has it already, or undefined: it is to be shared. Rejects with VmError Unsupported. */
export async function placeVolume(
  hand: Hand,
  machine: PodMachine,
  container: string,
  { mount, field, name, hugepageLimits: limits }: Volume,
  say: Say,
): Promise<string | undefined> {
  const source = mount.source ?? "";
  const direct = await findDirectVolume(source);
  if (direct) return await plugDirectVolume(machine, container, source, direct);
  const about = await stat(source);
  const { type, bsize: pageSize } = await statfs(source);
  if (type === HUGETLBFS)
    return await plugHugePages(machine, { source, pageSize, limits, owner: ownerOf(about), field });
  const kept = about.isDirectory() && KEPT.test(source);
  if (hasShare(machine)) {
    // Kata's agent makes its own copies.
    if (!isBerths(machine) || !kept || !(await isSmall(source))) return undefined;
    return await copyVolume(machine, container, { name, source, kind: "directory" }, say);
  }
  if (about.isFile()) return await copyVolume(machine, container, { name, source, kind: "file" }, say);
  if (EMPTY.test(source)) return await emptyDirectory(hand, machine, source);
  const readonly = (mount.options ?? []).some((option) => option === "ro" || option === "rro");
  if (kept || readonly) return await copyVolume(machine, container, { name, source, kind: "directory" }, say);
  throw new VmError(
    "Unsupported",
    `${field}: "${source}" is a directory of the node that containers write to, and with shared_fs = "${machine.settings.hypervisor.shared_fs}" the machine has no share; use shared_fs = "virtio-fs", or mount it read-only`,
  );
}

const ownerOf = ({ mode, uid, gid }: Stats): { mode: number; uid: number; gid: number } => ({
  mode: mode & 0o7777,
  uid,
  gid,
});

async function isSmall(source: string): Promise<boolean> {
  try {
    await readTree(source);
    return true;
  } catch (error) {
    if (error instanceof VmError) return false;
    throw error;
  }
}

/** Of the pod: all of its containers have the same. In memory with the size that the kubelet gave it, or on a disk in the volume itself. */
async function emptyDirectory(hand: Hand, machine: PodMachine, source: string): Promise<string> {
  const { type, blocks, bsize } = await statfs(source);
  return await plugEmptyDirectory(hand, machine, {
    source,
    owner: ownerOf(await stat(source)),
    memoryBytes: type === TMPFS ? blocks * bsize : undefined,
  });
}
