/** What a key of [hypervisor.NAME] is to each hypervisor: the table of hypervisor-keys.ts is QEMU's, and here is what differs. */
import { HYPERVISOR_KEYS, type HypervisorValues } from "./hypervisor-keys.ts";
import { honoured, type Key, moot, refused } from "./key.ts";

export type HypervisorName = "qemu" | "clh" | "firecracker" | "stratovirt";

export type HypervisorKeys = Readonly<Record<keyof HypervisorValues, Key>>;

type Keys = Readonly<Partial<Record<keyof HypervisorValues, Key>>>;
type Names = readonly (keyof HypervisorValues)[];

/** What each of them is told, or what is decided before a hypervisor is. */
const EVERY: Names = [
  "path",
  "kernel",
  "image",
  "initrd",
  "rootfs_type",
  "kernel_params",
  "default_vcpus",
  "default_memory",
  "enable_hugepages",
  "enable_debug",
  "block_device_cache_set",
  "enable_annotations",
  "valid_hypervisor_paths",
  "valid_virtio_fs_daemon_paths",
  "valid_entropy_sources",
  "valid_file_mem_backends",
];
const SHARES: Names = [
  "shared_fs",
  "virtio_fs_daemon",
  "virtio_fs_cache",
  "virtio_fs_extra_args",
  "virtio_fs_inode_file_handles",
];

const NO_BRIDGES = moot("integer", 1, "it has no bridges to plug into");
const NO_OFFSET = moot("integer", 0, "it has no NVDIMM devices");
const SLOTS = moot("integer", 10, "its slots are its own");

const rate = (what: string, unit: string): Key => honoured("integer", 0, `${what}, ${unit}; 0: no limit`);

interface Driver {
  /** For a person. */
  readonly title: string;
  readonly honoured: Names;
  readonly differs: Keys;
}

const DRIVERS: Readonly<Record<Exclude<HypervisorName, "qemu">, Driver>> = {
  clh: {
    title: "Cloud Hypervisor",
    honoured: [
      ...SHARES,
      "virtio_fs_queue_size",
      "vm_rootfs_driver",
      "disable_image_nvdimm",
      "firmware",
      "default_maxvcpus",
      "default_maxmemory",
      "enable_mem_prealloc",
      "reclaim_guest_freed_memory",
      "block_device_driver",
      "block_device_cache_direct",
      "num_queues",
      "queue_size",
      "network_queues",
      "enable_iommu",
      "entropy_source",
      "hot_plug_vfio",
      "cold_plug_vfio",
      "use_legacy_serial",
    ],
    differs: {
      machine_type: moot("string", "", "its machines are of one type"),
      default_bridges: NO_BRIDGES,
      memory_offset: NO_OFFSET,
      memory_slots: SLOTS,
      enable_virtio_mem: honoured("boolean", false, "hotplug_method VirtioMem; false: Acpi"),
      disable_seccomp: honoured("boolean", false, "--seccomp false"),
      hypervisor_loglevel: honoured("integer", 1, "with enable_debug: -v, -vv, -vvv"),
      net_rate_limiter_bw_max_rate: rate("of a network device", "bits a second"),
      net_rate_limiter_bw_one_time_burst: rate("what may come at once", "bits"),
      net_rate_limiter_ops_max_rate: rate("of a network device", "operations a second"),
      net_rate_limiter_ops_one_time_burst: rate("what may come at once", "operations"),
      disk_rate_limiter_bw_max_rate: rate("of a block device", "bits a second"),
      disk_rate_limiter_bw_one_time_burst: rate("what may come at once", "bits"),
      disk_rate_limiter_ops_max_rate: rate("of a block device", "operations a second"),
      disk_rate_limiter_ops_one_time_burst: rate("what may come at once", "operations"),
    },
  },
  firecracker: {
    title: "Firecracker",
    honoured: ["block_device_aio", "block_device_cache_noflush", "block_device_driver"],
    differs: {
      shared_fs: refused("string", "none", "Firecracker has no virtio-fs: root file systems are block devices"),
      machine_type: moot("string", "", "its machines are of one type"),
      vm_rootfs_driver: refused("string", "virtio-blk-mmio", "Firecracker's image is a virtio-mmio block device"),
      disable_image_nvdimm: moot("boolean", false, "it has no NVDIMM devices"),
      default_bridges: NO_BRIDGES,
      default_maxvcpus: moot("integer", 0, "its machines keep the processors that they start with"),
      default_maxmemory: moot("integer", 0, "its machines keep the memory that they start with"),
      memory_offset: NO_OFFSET,
      memory_slots: SLOTS,
      entropy_source: moot("string", "/dev/urandom", "its entropy device has a source of its own"),
      disable_seccomp: honoured("boolean", false, "--no-seccomp"),
      rx_rate_limiter_max_rate: rate("what a network device of the guest's receives", "bits a second"),
      tx_rate_limiter_max_rate: rate("what a network device of the guest's sends", "bits a second"),
    },
  },
  stratovirt: {
    title: "StratoVirt",
    honoured: [
      ...SHARES,
      "enable_mem_prealloc",
      "file_mem_backend",
      "reclaim_guest_freed_memory",
      "block_device_driver",
      "block_device_cache_direct",
      "enable_iothreads",
      "entropy_source",
    ],
    differs: {
      rx_rate_limiter_max_rate: rate("what a network device of the guest's receives", "bits a second"),
      tx_rate_limiter_max_rate: rate("what a network device of the guest's sends", "bits a second"),
      machine_type: refused("string", "microvm", "only StratoVirt's light machine, microvm, is started"),
      vm_rootfs_driver: refused("string", "virtio-blk-mmio", "StratoVirt's image is a virtio-mmio block device"),
      disable_image_nvdimm: moot("boolean", false, "it has no NVDIMM devices"),
      default_bridges: NO_BRIDGES,
      default_maxvcpus: moot("integer", 0, "its machines keep the processors that they start with"),
      default_maxmemory: moot("integer", 0, "its machines keep the memory that they start with"),
      memory_offset: NO_OFFSET,
      memory_slots: SLOTS,
      disable_seccomp: moot("boolean", true, "it is started without its own filter, as Kata starts it"),
    },
  },
};

const TABLES = new Map<HypervisorName, HypervisorKeys>([["qemu", HYPERVISOR_KEYS]]);

export function keysOf(name: HypervisorName): HypervisorKeys {
  const known = TABLES.get(name);
  if (known || name === "qemu") return known ?? HYPERVISOR_KEYS;
  const { title, honoured: own, differs } = DRIVERS[name];
  const taken = new Set([...EVERY, ...own]);
  const keys = Object.fromEntries(
    (Object.entries(HYPERVISOR_KEYS) as [keyof HypervisorValues, Key][]).map(([key, as]) => [
      key,
      differs[key] ??
        (as.use !== "honoured" || taken.has(key) ? as : { ...as, use: "refused", note: `${title} has no such option` }),
    ]),
  ) as unknown as HypervisorKeys;
  TABLES.set(name, keys);
  return keys;
}
