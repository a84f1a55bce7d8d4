/** A machine as Firecracker's API is told of it (its OpenAPI description, v1.12). Pure. */
import { VmError } from "../../errors.ts";
import { bucket } from "../clh/config.ts";
import type { Method } from "../http.ts";
import { type Disk, type DiskOptions, guestSocket, type Machine, type Nic, type Rates } from "../machine.ts";

export interface FirecrackerOptions {
  /** Error, Warning, Info, Debug. */
  readonly logLevel: string;
  readonly seccomp: boolean;
}

export interface ApiRequest {
  readonly method: Method;
  readonly route: string;
  readonly body: unknown;
}

/** Drives that stand for those that come while it runs: it plugs none, but changes what is behind one. */
export const PLACEHOLDERS = 8;
export const placeholder = (index: number): string => `pool_${index}`;
/** What is behind one that nobody has taken. */
export const placeholderFile = (directory: string): string => `${directory}/placeholder`;
/** Bytes: a disk has at least one sector. */
export const PLACEHOLDER_SIZE = 512;

/** Of vsock: the first that is a guest's. Each machine has a socket of its own. */
const GUEST_CID = 3;
/** What its configuration says. */
const MOST_VCPUS = 32;

const put = (route: string, body: unknown): ApiRequest => ({ method: "PUT", route, body });

/** In order; a start is the last. */
export function bootRequests(machine: Machine): ApiRequest[] {
  refuse(machine);
  const { memory, image, directory, diskOptions } = machine;
  const pool = Array.from({ length: PLACEHOLDERS }, (_, index) =>
    drive({ id: placeholder(index), path: placeholderFile(directory), readonly: false }, diskOptions),
  );
  return [
    put("/machine-config", {
      vcpu_count: machine.vcpus,
      mem_size_mib: memory.mib,
      smt: false,
      track_dirty_pages: false,
      ...(memory.hugepages && { huge_pages: "2M" }),
    }),
    put("/boot-source", {
      kernel_image_path: machine.kernel,
      ...(machine.initrd !== undefined && { initrd_path: machine.initrd }),
      boot_args: machine.commandLine.join(" "),
    }),
    ...(image === undefined ? [] : [drive({ id: "image", path: image.path, readonly: true }, diskOptions)]),
    ...machine.disks.map((disk) => drive({ ...disk, id: driveId(disk.id) }, diskOptions)),
    ...pool,
    ...machine.nics.map(nic),
    put("/vsock", { guest_cid: GUEST_CID, uds_path: guestSocket(directory) }),
    put("/entropy", {}),
    put("/balloon", { amount_mib: 0, deflate_on_oom: true, stats_polling_interval_s: 0 }),
    put("/actions", { action_type: "InstanceStart" }),
  ];
}

/** It takes letters, digits and "_". */
export const driveId = (id: string): string => id.replaceAll(/[^A-Za-z0-9_]/g, "_");

function refuse({ vcpus, memory, shares, nics, image, devices, diskOptions }: Machine): void {
  const no = (message: string): never => {
    throw new VmError("Unsupported", message);
  };
  if (shares.length > 0) no('shared_fs: Firecracker has no virtio-fs; set shared_fs = "none"');
  if (devices.length > 0) no("VFIO devices: Firecracker takes none");
  if (vcpus > MOST_VCPUS) no(`default_vcpus: Firecracker's machines have ${MOST_VCPUS} processors at most`);
  if (image?.driver === "pmem") no("vm_rootfs_driver: Firecracker has no NVDIMM; use virtio-blk-mmio");
  if (nics.some(({ queues }) => queues > 1)) no("network_queues: a network device of Firecracker's has one queue pair");
  if (memory.prealloc) no("enable_mem_prealloc: Firecracker's memory is allocated as it is touched");
  if (memory.fileDirectory !== "") no("file_mem_backend: Firecracker's memory is anonymous");
  if (diskOptions.driver !== "virtio-blk")
    no(`block_device_driver: Firecracker has no ${diskOptions.driver}; use virtio-mmio`);
}

function drive({ id, path, readonly }: Disk, { cache, aio, rates }: DiskOptions): ApiRequest {
  return put(`/drives/${id}`, {
    drive_id: id,
    path_on_host: path,
    // A root device would put its own root= into the kernel's parameters.
    is_root_device: false,
    is_read_only: readonly,
    cache_type: cache?.noFlush === false ? "Writeback" : "Unsafe",
    io_engine: aio === "io_uring" ? "Async" : "Sync",
    ...limiter("rate_limiter", rates),
  });
}

function nic({ id, tap, mac, rx, tx }: Nic): ApiRequest {
  return put(`/network-interfaces/${id}`, {
    iface_id: id,
    host_dev_name: tap,
    guest_mac: mac,
    ...limiter("rx_rate_limiter", rx),
    ...limiter("tx_rate_limiter", tx),
  });
}

function limiter(name: string, { bytes, operations }: Rates): Record<string, unknown> {
  if (bytes.perSecond <= 0 && operations.perSecond <= 0) return {};
  return {
    [name]: {
      ...(bytes.perSecond > 0 && { bandwidth: bucket(bytes) }),
      ...(operations.perSecond > 0 && { ops: bucket(operations) }),
    },
  };
}
