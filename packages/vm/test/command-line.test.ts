/** What a configuration makes of QEMU's and virtiofsd's command lines: no honoured key without a consequence. */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { HYPERVISOR_KEYS } from "../src/configuration/hypervisor-keys.ts";
import type { Key } from "../src/configuration/key.ts";
import { settingsOf, type VmSettings } from "../src/configuration/settings.ts";
import { machineShape } from "../src/hypervisor/choose.ts";
import { hypervisorOf } from "../src/hypervisor/drivers.ts";
import type { Machine } from "../src/hypervisor/machine.ts";
import { nicRates } from "../src/hypervisor/rates.ts";
import { nvdimmImage } from "../src/image/nvdimm.ts";
import { virtiofsdArguments } from "../src/sandbox/virtiofsd.ts";

let dir: string;
let file: (name: string) => string;
before(() => {
  dir = mkdtempSync(join(tmpdir(), "berth-vm-command-"));
  file = (name) => {
    writeFileSync(join(dir, name), name);
    return join(dir, name);
  };
});
after(() => rmSync(dir, { recursive: true }));

const settingsWith = (own: Record<string, unknown>): VmSettings =>
  settingsOf({ hypervisor: { qemu: { path: file("qemu"), virtio_fs_daemon: file("virtiofsd"), ...own } } });

function machineOf(settings: VmSettings): Machine {
  const { image, kernel, initrd } = settings.hypervisor;
  const files = { kernel: kernel || "/boot/vmlinuz", initrd: initrd || "/boot/initrd", image: image || undefined };
  const {
    virtio_fs_queue_size: queueSize,
    virtio_fs_cache_size: cacheSize,
    network_queues: queues,
  } = settings.hypervisor;
  return {
    ...machineShape(settings, files),
    id: "pod",
    directory: "/run/vm/pod",
    shares:
      settings.hypervisor.shared_fs === "virtio-fs"
        ? [{ tag: "share", socket: "/run/vm/pod/fs.sock", queueSize, cacheSize }]
        : [],
    nics: [{ id: "net0", tap: "tap0", mac: "02:00:00:00:00:01", queues, vhost: false, ...nicRates(settings) }],
    devices: [],
    disks: [{ id: "data", path: "/images/data", readonly: true }],
  };
}

function commandLines(own: Record<string, unknown>): string {
  const settings = settingsWith(own);
  const { argv } = hypervisorOf(settings, "tcg").program(machineOf(settings));
  return JSON.stringify([argv, virtiofsdArguments(settings, "/run/vm/pod")]);
}

const flagsOf = (own: Record<string, unknown>): string => {
  const settings = settingsWith(own);
  return hypervisorOf(settings, "tcg").program(machineOf(settings)).argv.join(" ");
};

/** Values that a key must have to be taken, or to mean something; with what must be set beside it. */
const VALUES: Readonly<Record<string, () => Record<string, unknown>>> = {
  path: () => ({ path: file("other-qemu") }),
  image: () => ({ image: file("image") }),
  rootfs_type: () => ({ image: file("image"), rootfs_type: "ext4" }),
  kernel_verity_params: () => ({ image: partitioned(), kernel_verity_params: VERITY }),
  vm_rootfs_driver: () => ({ image: file("image"), vm_rootfs_driver: "virtio-blk-pci" }),
  disable_image_nvdimm: () => ({ image: file("image"), disable_image_nvdimm: true }),
  machine_type: () => ({ machine_type: "pc" }),
  virtio_fs_daemon: () => ({ virtio_fs_daemon: file("other-virtiofsd") }),
  virtio_fs_cache: () => ({ virtio_fs_cache: "always" }),
  shared_fs: () => ({ shared_fs: "none" }),
  default_vcpus: () => ({ default_vcpus: -1 }),
  default_maxvcpus: () => ({ default_maxvcpus: 1 }),
  default_bridges: () => ({ default_bridges: 3 }),
  default_maxmemory: () => ({ default_maxmemory: 3072 }),
  memory_slots: () => ({ memory_slots: 3 }),
  block_device_driver: () => ({ block_device_driver: "virtio-scsi" }),
  block_device_aio: () => ({ block_device_aio: "native" }),
  block_device_cache_direct: () => ({ block_device_cache_set: true, block_device_cache_direct: true }),
  block_device_cache_noflush: () => ({ block_device_cache_set: true, block_device_cache_noflush: true }),
  block_device_logical_sector_size: () => ({ block_device_logical_sector_size: 4096 }),
  extra_monitor_socket: () => ({ enable_debug: true, extra_monitor_socket: "hmp" }),
  file_mem_backend: () => ({ file_mem_backend: "/dev/shm" }),
  cpu_features: () => ({ cpu_features: "-avx" }),
  enable_swap: () => ({ enable_swap: false }),
  use_legacy_serial: () => ({ use_legacy_serial: false }),
  initrd: () => ({ initrd: file("other-initrd") }),
  kernel: () => ({ kernel: file("other-kernel") }),
};

/** Beside what a value is compared: what it needs to be taken at all. */
const BESIDE: Readonly<Record<string, () => Record<string, unknown>>> = {
  rootfs_type: () => ({ image: file("image") }),
  kernel_verity_params: () => ({ image: partitioned() }),
  vm_rootfs_driver: () => ({ image: file("image") }),
  disable_image_nvdimm: () => ({ image: file("image") }),
  block_device_cache_direct: () => ({ block_device_cache_set: true }),
  block_device_cache_noflush: () => ({ block_device_cache_set: true }),
  extra_monitor_socket: () => ({ enable_debug: true }),
};

/** Not on these command lines: what of them is tested where. */
const ELSEWHERE: Readonly<Record<string, string>> = {
  rootless: "tests/vm-machine.test.ts",
  hot_plug_vfio: "vfio.test.ts",
  cold_plug_vfio: "vfio.test.ts",
  hotplug_vfio_on_root_bus: "vfio.test.ts",
  rx_rate_limiter_max_rate: "tests/vm-machine.test.ts",
  tx_rate_limiter_max_rate: "tests/vm-machine.test.ts",
  enable_annotations: "configuration.test.ts",
  disable_block_device_use: "tests/vm-disks.test.ts",
  msize_9p: "storage.test.ts",
  valid_hypervisor_paths: "configuration.test.ts",
  valid_virtio_fs_daemon_paths: "configuration.test.ts",
  valid_entropy_sources: "configuration.test.ts",
  valid_file_mem_backends: "configuration.test.ts",
};

function otherValue({ type, fallback }: Key): unknown {
  if (type === "boolean") return fallback !== true;
  if (type === "integer" || type === "number") return Number(fallback) + 64;
  return type === "strings" ? ["/other"] : "other=1";
}

for (const [name, key] of Object.entries<Key>(HYPERVISOR_KEYS)) {
  if (key.use !== "honoured" || ELSEWHERE[name] !== undefined) continue;
  test(`${name} changes a command line`, () => {
    const own = VALUES[name]?.() ?? { [name]: otherValue(key) };
    assert.notEqual(commandLines({ ...own }), commandLines(BESIDE[name]?.() ?? {}));
  });
}

test("a root for dm-verity is named as Kata names it, and what is wrong with it is told", () => {
  const line = flagsOf({ image: partitioned(), kernel_verity_params: VERITY });
  const table = "dm-verity,,,ro,0 8 verity 1 /dev/pmem0p1 /dev/pmem0p2 4096 4096 1 0 sha256 ab12 cd";
  assert.ok(line.includes(` dm-mod.create="${table}" root=/dev/dm-0 ro rootfstype=erofs `), line);
  assert.doesNotMatch(line, /dax/);
  for (const [params, words] of [
    ["root_hash", /"root_hash" is not NAME=VALUE/],
    [VERITY.replace("ab12", "xy"), /root_hash: "xy" is no hexadecimal number/],
    [VERITY.replace("salt=cd,", ""), /salt: "" is no hexadecimal/],
    [VERITY.replace("data_block_size=4096", "data_block_size=100"), /data_block_size: "100" is no multiple of 512/],
    [VERITY.replace("data_blocks=1", "data_blocks=0"), /data_blocks: "0" is no multiple of 1/],
  ] as const)
    assert.throws(() => flagsOf({ image: partitioned(), kernel_verity_params: params }), words);
  assert.throws(() => flagsOf({ kernel_verity_params: VERITY }), /it is about image, and there is none/);
  assert.throws(() => flagsOf({ image: file("image"), kernel_verity_params: VERITY }), /no partition for the hashes/);
});

const VERITY = "root_hash=ab12,salt=cd,data_blocks=1,data_block_size=4096,hash_block_size=4096";

/** An image of one block. */
function partitioned(): string {
  const fileSystem = Buffer.alloc(4096);
  Buffer.from([0xe2, 0xe1, 0xf5, 0xe0]).copy(fileSystem, 1024);
  const path = file("partitioned");
  writeFileSync(path, nvdimmImage(fileSystem, Buffer.alloc(4096)));
  return path;
}

test("a kernel parameter of the configuration takes the place of the one with its name", () => {
  const line = flagsOf({ kernel_params: "panic=5 quiet=0 agent.x" });
  assert.match(line, /-append .* panic=5 quiet=0 agent\.x /);
  assert.doesNotMatch(line, /panic=1 /);
});

test("memory is shared with virtiofsd, and under TCG processors have no protection keys", () => {
  const line = flagsOf({ default_memory: 256, default_maxmemory: 1024 });
  assert.match(line, / -object memory-backend-memfd,id=mem,size=256M,share=on /);
  assert.match(line, / -cpu max,-pku /);
  assert.match(line, / -m 256M,slots=10,maxmem=1024M /);
  assert.match(line, / -device virtserialport,chardev=channel,bus=serial0\.0,name=berth\.agent /);
});

test("each machine type has its own devices", () => {
  assert.match(flagsOf({ machine_type: "q35", default_bridges: 1 }), /pcie-root-port,id=rp7,/);
  assert.match(flagsOf({ machine_type: "pc", default_bridges: 2 }), /pci-bridge,id=bridge1,/);
  const microvm = flagsOf({ machine_type: "microvm" });
  assert.match(microvm, /virtio-net-device,/);
  assert.doesNotMatch(microvm, /-pci|pcie/);
  assert.throws(() => flagsOf({ machine_type: "isapc" }), /machine_type: "isapc" is none of q35, pc, microvm/);
});

test("an image is an NVDIMM on q35, and a block device where that is not wanted or not there", () => {
  assert.match(
    flagsOf({ image: file("image") }),
    /-machine q35,[^ ]*nvdimm=on.* root=\/dev\/pmem0 ro .*-device nvdimm,/,
  );
  assert.match(
    flagsOf({ image: file("image"), machine_type: "microvm" }),
    / root=\/dev\/vda ro .*virtio-blk-device,drive=image/,
  );
});

test("devices of the host's are in the last ports", () => {
  const settings = settingsWith({ cold_plug_vfio: "root-port" });
  const devices = ["0000:01:00.0", "0000:01:00.1"].map((address, index) => ({
    id: `vfio1-${index}`,
    address,
    path: "",
  }));
  const machine = { ...machineOf(settings), devices };
  const line = hypervisorOf(settings, "tcg").program(machine).argv.join(" ");
  assert.match(line, /vfio-pci,host=0000:01:00\.0,id=vfio1-0-dev,bus=rp7 .*host=0000:01:00\.1,id=vfio1-1-dev,bus=rp6/);
});

test("a comma in a path stays in it", () => {
  assert.match(flagsOf({ file_mem_backend: "/a,b" }), /mem-path=\/a,,b,share=on/);
});

test("a program that is not there is told by its key", () => {
  assert.throws(
    () => hypervisorOf(settingsWith({ path: "/nowhere/qemu" }), "tcg"),
    /path: \/nowhere\/qemu is not there/,
  );
  assert.throws(
    () => virtiofsdArguments(settingsWith({ virtio_fs_daemon: "/nowhere/fs" }), "/run/x"),
    /virtio_fs_daemon: \/nowhere\/fs is not there/,
  );
});

test("the debug console is told to the guest", () => {
  const parameters = (enabled: boolean): string => {
    const settings = settingsOf({
      hypervisor: { qemu: { path: file("qemu") } },
      agent: { kata: { debug_console_enabled: enabled } },
    });
    return machineOf(settings).commandLine.join(" ");
  };
  assert.match(parameters(true), / agent\.debug_console agent\.debug_console_vport=1026$/);
  assert.doesNotMatch(parameters(false), /debug_console/);
});
