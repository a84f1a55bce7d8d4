/** [hypervisor.clh], [hypervisor.firecracker] and [hypervisor.stratovirt]: each key changes what is started or told, or is refused by name. */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { type HypervisorName, keysOf } from "../src/configuration/driver-keys.ts";
import type { Key } from "../src/configuration/key.ts";
import { settingsOf, type VmSettings } from "../src/configuration/settings.ts";
import { machineShape } from "../src/hypervisor/choose.ts";
import { vmConfig } from "../src/hypervisor/clh/config.ts";
import { clhOptions, hypervisorOf } from "../src/hypervisor/drivers.ts";
import { bootRequests } from "../src/hypervisor/firecracker/requests.ts";
import type { Machine } from "../src/hypervisor/machine.ts";
import { nicRates } from "../src/hypervisor/rates.ts";
import { virtiofsdArguments } from "../src/sandbox/virtiofsd.ts";

type Values = Readonly<Record<string, unknown>>;
const NAMES = ["clh", "firecracker", "stratovirt"] as const satisfies readonly HypervisorName[];

let dir: string;
const file = (name: string): string => {
  writeFileSync(join(dir, name), name);
  return join(dir, name);
};
before(() => {
  dir = mkdtempSync(join(tmpdir(), "berth-driver-keys-"));
});
after(() => rmSync(dir, { recursive: true }));

const settingsWith = (name: HypervisorName, own: Values): VmSettings =>
  settingsOf({
    hypervisor: {
      [name]: {
        path: file("vmm"),
        kernel: file("kernel"),
        ...(name !== "firecracker" && { virtio_fs_daemon: file("virtiofsd") }),
        ...(own["image"] === undefined && { initrd: file("initrd") }),
        ...own,
      },
    },
  });

/** All that goes out because of a configuration: what is started, and what it is told over its API. */
function said(name: HypervisorName, own: Values): string {
  const settings = settingsWith(name, own);
  const { kernel, initrd, image, shared_fs: shared, virtio_fs_queue_size: queueSize } = settings.hypervisor;
  const files = { kernel, initrd: initrd || undefined, image: image || undefined };
  const machine: Machine = {
    ...machineShape(settings, files),
    id: "pod",
    directory: "/run/vm/pod",
    shares: shared === "virtio-fs" ? [{ tag: "share", socket: "/fs.sock", queueSize, cacheSize: 0 }] : [],
    nics: [
      {
        id: "net0",
        tap: "tap0",
        mac: "02:00:00:00:00:01",
        queues: settings.hypervisor.network_queues,
        vhost: false,
        ...nicRates(settings),
      },
    ],
    devices: [],
    disks: [{ id: "data", path: "/images/data", readonly: true }],
  };
  const told =
    name === "clh"
      ? vmConfig(machine, clhOptions(settings))
      : name === "firecracker"
        ? bootRequests(machine)
        : undefined;
  const daemon = shared === "virtio-fs" ? virtiofsdArguments(settings, "/run/vm/pod") : undefined;
  return JSON.stringify([hypervisorOf(settings, "kvm").program(machine), told, daemon]);
}

/** What a key needs to be taken, or to mean something; and what it is compared with. */
const VALUES: Readonly<Record<string, () => readonly [own: Values, beside?: Values]>> = {
  path: () => [{ path: file("other-vmm") }],
  kernel: () => [{ kernel: file("other-kernel") }],
  initrd: () => [{ initrd: file("other-initrd") }],
  image: () => [{ image: file("image") }],
  firmware: () => [{ firmware: "/firmware" }],
  virtio_fs_daemon: () => [{ virtio_fs_daemon: file("other-virtiofsd") }],
  virtio_fs_cache: () => [{ virtio_fs_cache: "always" }],
  shared_fs: () => [{ shared_fs: "none" }],
  rootfs_type: () => [{ image: file("image"), rootfs_type: "ext4" }, { image: file("image") }],
  vm_rootfs_driver: () => [{ image: file("image"), vm_rootfs_driver: "virtio-blk-pci" }, { image: file("image") }],
  disable_image_nvdimm: () => [{ image: file("image"), disable_image_nvdimm: true }, { image: file("image") }],
  default_vcpus: () => [{ default_vcpus: -1 }],
  default_maxvcpus: () => [{ default_maxvcpus: 1 }],
  default_maxmemory: () => [{ default_maxmemory: 3072 }],
  file_mem_backend: () => [{ file_mem_backend: "/dev/shm" }],
  block_device_aio: () => [{ block_device_aio: "io_uring" }],
  block_device_cache_set: () => [{ block_device_cache_set: true, block_device_cache_direct: true }],
  block_device_cache_direct: () => [
    { block_device_cache_set: true, block_device_cache_direct: true },
    { block_device_cache_set: true },
  ],
  block_device_cache_noflush: () => [
    { block_device_cache_set: true, block_device_cache_noflush: true },
    { block_device_cache_set: true },
  ],
  hypervisor_loglevel: () => [{ enable_debug: true, hypervisor_loglevel: 3 }, { enable_debug: true }],
  net_rate_limiter_bw_one_time_burst: () => [
    { net_rate_limiter_bw_max_rate: 800, net_rate_limiter_bw_one_time_burst: 1600 },
    { net_rate_limiter_bw_max_rate: 800 },
  ],
  net_rate_limiter_ops_one_time_burst: () => [
    { net_rate_limiter_ops_max_rate: 800, net_rate_limiter_ops_one_time_burst: 1600 },
    { net_rate_limiter_ops_max_rate: 800 },
  ],
  disk_rate_limiter_bw_one_time_burst: () => [
    { disk_rate_limiter_bw_max_rate: 800, disk_rate_limiter_bw_one_time_burst: 1600 },
    { disk_rate_limiter_bw_max_rate: 800 },
  ],
  disk_rate_limiter_ops_one_time_burst: () => [
    { disk_rate_limiter_ops_max_rate: 800, disk_rate_limiter_ops_one_time_burst: 1600 },
    { disk_rate_limiter_ops_max_rate: 800 },
  ],
};

/** Said by a refusal: what of them is tested in configuration.test.ts, or in the test below. */
const ELSEWHERE = new Set([
  "enable_annotations",
  "valid_hypervisor_paths",
  "valid_virtio_fs_daemon_paths",
  "valid_entropy_sources",
  "valid_file_mem_backends",
  "block_device_driver",
  "hot_plug_vfio",
  "cold_plug_vfio",
]);
/** Of the host's traffic control: tests/vm-machine.test.ts. */
const BY_HOST = new Set(["stratovirt rx_rate_limiter_max_rate", "stratovirt tx_rate_limiter_max_rate"]);

function another({ type, fallback }: Key): unknown {
  if (type === "boolean") return fallback !== true;
  if (type === "integer" || type === "number") return Number(fallback) + 64;
  if (type === "list") return [{}];
  return type === "strings" ? ["/other"] : "other=1";
}

const optionsOf = (name: HypervisorName, key: string, about: Key): readonly [Values, Values?] => {
  if (name === "firecracker" && key === "block_device_cache_set") return [{ block_device_cache_set: true }];
  return VALUES[key]?.() ?? [{ [key]: another(about) }];
};

for (const name of NAMES)
  describe(`[hypervisor.${name}]`, () => {
    const keys = Object.entries<Key>(keysOf(name));
    for (const [key, about] of keys) {
      if (about.use !== "honoured" || ELSEWHERE.has(key) || BY_HOST.has(`${name} ${key}`)) continue;
      test(`${key} changes what is started or told`, () => {
        const [own, beside = {}] = optionsOf(name, key, about);
        if (key === "network_queues" && name !== "clh")
          return assert.throws(() => said(name, { network_queues: 2 }), /network_queues: /);
        return assert.notEqual(said(name, own), said(name, beside));
      });
    }

    test("a refused key is refused by what it says, and taken at its default", () => {
      const refused = keys.filter(([, { use }]) => use === "refused");
      assert.ok(refused.length > 25);
      for (const [key, about] of refused) {
        assert.doesNotThrow(() => settingsOf({ hypervisor: { [name]: { [key]: about.fallback } } }), key);
        const value = another(about) === false ? true : another(about);
        if (value === about.fallback) continue;
        assert.throws(
          () => settingsOf({ hypervisor: { [name]: { [key]: value } } }),
          (error: Error) => error.message.includes(`${key}: ${about.note}`),
          key,
        );
      }
    });

    test("a block device's driver that it has not is refused by name", () => {
      assert.throws(() => said(name, { block_device_driver: "virtio-scsi" }), /block_device_driver: .* no virtio-scsi/);
    });
  });

test("an option that is QEMU's alone is refused with the hypervisor's name", () => {
  assert.throws(
    () => settingsOf({ hypervisor: { firecracker: { pflashes: ["/a"] } } }),
    /\[hypervisor\.firecracker\] pflashes: Firecracker has no such option/,
  );
  assert.throws(
    () => settingsOf({ hypervisor: { firecracker: { shared_fs: "virtio-fs" } } }),
    /shared_fs: Firecracker has no virtio-fs/,
  );
  assert.throws(
    () => settingsOf({ hypervisor: { stratovirt: { machine_type: "q35" } } }),
    /machine_type: only StratoVirt's light machine, microvm, is started/,
  );
});

test("limits are given as bytes and operations a second", () => {
  const clh = said("clh", { net_rate_limiter_bw_max_rate: 8000, disk_rate_limiter_ops_max_rate: 50 });
  assert.match(clh, /"net":\[\{[^\]]*"rate_limiter_config":\{"bandwidth":\{"size":1000,"refill_time":1000\}\}/);
  assert.match(clh, /"disks":\[\{[^\]]*"rate_limiter_config":\{"ops":\{"size":50,"refill_time":1000\}\}/);
  const firecracker = said("firecracker", { rx_rate_limiter_max_rate: 8000, tx_rate_limiter_max_rate: 16_000 });
  assert.match(firecracker, /"rx_rate_limiter":\{"bandwidth":\{"size":1000,"refill_time":1000\}\}/);
  assert.match(firecracker, /"tx_rate_limiter":\{"bandwidth":\{"size":2000,"refill_time":1000\}\}/);
});
