/** A machine as Cloud Hypervisor's API is told of it (VmConfig of its OpenAPI description, v51). Pure. */
import type { VfioDevice } from "../vfio.ts";
import type { Disk, DiskOptions, Machine, Nic, Rate, Rates, Share } from "../machine.ts";
import { consoleLog, guestSocket } from "../machine.ts";

export interface ClhOptions {
  /** How much it says itself: 0 warnings, to 3 everything. */
  readonly logLevel: number;
  readonly seccomp: boolean;
  readonly iommu: boolean;
  readonly firmware: string;
  readonly virtioMem: boolean;
  /** The console is a serial port; false: a virtio console. */
  readonly serial: boolean;
}

const MIB = 1 << 20;
/** Of vsock: the first that is a guest's. Each machine has a socket of its own, so that all can have this one. */
const GUEST_CID = 3;
/** What ACPI and virtio-mem grow by. */
const HOTPLUG_STEP = 128;

/** MiB that can come to what the machine is started with. */
export const hotplugMib = ({ memory }: Machine): number =>
  Math.max(0, Math.floor((memory.maxMib - memory.mib) / HOTPLUG_STEP) * HOTPLUG_STEP);

export const grownMib = (base: number, mib: number): number =>
  base + Math.ceil((mib - base) / HOTPLUG_STEP) * HOTPLUG_STEP;

export function vmConfig(machine: Machine, options: ClhOptions): Record<string, unknown> {
  const { memory, image, directory } = machine;
  const hotplug = hotplugMib(machine);
  const file = { mode: "File", file: consoleLog(directory) };
  const off = { mode: "Off" };
  const iommu = options.iommu ? { iommu: true } : {};
  const disks = [
    ...(image?.driver === "blk" ? [{ path: image.path, readonly: true, image_type: "Raw", ...iommu }] : []),
    ...machine.disks.map((disk) => diskConfig(disk, machine.diskOptions, options)),
  ];
  return {
    cpus: { boot_vcpus: machine.vcpus, max_vcpus: machine.maxVcpus },
    memory: {
      size: memory.mib * MIB,
      // Shared with virtiofsd, which reads and writes the guest's memory.
      shared: true,
      ...(hotplug > 0 && { hotplug_size: hotplug * MIB }),
      hotplug_method: options.virtioMem ? "VirtioMem" : "Acpi",
      ...(memory.hugepages && { hugepages: true }),
      ...(memory.prealloc && { prefault: true }),
    },
    payload: {
      kernel: machine.kernel,
      ...(machine.initrd !== undefined && { initramfs: machine.initrd }),
      cmdline: machine.commandLine.join(" "),
      ...(options.firmware !== "" && { firmware: options.firmware }),
    },
    rng: { src: machine.entropy, ...iommu },
    balloon: { size: 0, deflate_on_oom: true, free_page_reporting: machine.reportsFreePages },
    serial: options.serial ? file : off,
    console: options.serial ? off : file,
    vsock: { cid: GUEST_CID, socket: guestSocket(directory), ...iommu },
    ...(options.iommu && { iommu: true }),
    ...(image?.driver === "pmem" && { pmem: [{ file: image.path, size: image.size, discard_writes: true }] }),
    ...(disks.length > 0 && { disks }),
    ...(machine.shares.length > 0 && { fs: machine.shares.map(fsConfig) }),
    ...(machine.devices.length > 0 && { devices: machine.devices.map((device) => deviceConfig(device, options)) }),
    ...(machine.nics.length > 0 && { net: machine.nics.map((nic) => netConfig(nic, options)) }),
  };
}

export function diskConfig(disk: Disk, options: DiskOptions, { iommu }: ClhOptions): Record<string, unknown> {
  return {
    id: disk.id,
    serial: disk.id,
    path: disk.path,
    readonly: disk.readonly,
    image_type: "Raw",
    ...(options.cache?.direct === true && { direct: true }),
    ...(options.queues > 0 && { num_queues: options.queues }),
    ...(options.queueSize > 0 && { queue_size: options.queueSize }),
    ...limiter(options.rates),
    ...(iommu && { iommu: true }),
  };
}

/** It makes the tap of that name where it runs, when there is none. Both directions have the same limit. */
export function netConfig({ id, tap, mac, queues, tx }: Nic, { iommu }: ClhOptions): Record<string, unknown> {
  return {
    id,
    tap,
    mac,
    // A pair each.
    num_queues: 2 * queues,
    ...limiter(tx),
    ...(iommu && { iommu: true }),
  };
}

export const deviceConfig = ({ id, path }: VfioDevice, { iommu }: ClhOptions): Record<string, unknown> => ({
  id,
  path,
  ...(iommu && { iommu: true }),
});

const fsConfig = ({ tag, socket, queueSize }: Share): Record<string, unknown> => ({
  id: `share-${tag}`,
  tag,
  socket,
  num_queues: 1,
  queue_size: queueSize,
});

const isLimited = ({ bytes, operations }: Rates): boolean => bytes.perSecond > 0 || operations.perSecond > 0;

function limiter({ bytes, operations }: Rates): Record<string, unknown> {
  if (!isLimited({ bytes, operations })) return {};
  return {
    rate_limiter_config: {
      ...(bytes.perSecond > 0 && { bandwidth: bucket(bytes) }),
      ...(operations.perSecond > 0 && { ops: bucket(operations) }),
    },
  };
}

/** Milliseconds in which it fills. */
const REFILL = 1000;

export const bucket = ({ perSecond, burst }: Rate): Record<string, number> => ({
  size: perSecond,
  refill_time: REFILL,
  ...(burst > 0 && { one_time_burst: burst }),
});
