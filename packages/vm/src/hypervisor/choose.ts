/** The machine that a configuration asks for, as every hypervisor is told of it. */
import { existsSync } from "node:fs";
import { availableParallelism, totalmem } from "node:os";
import type { VmSettings } from "../configuration/settings.ts";
import { VmError } from "../errors.ts";
import { AGENT_PATH } from "../image/initramfs.ts";
import { inspectImage, type RootType } from "../image/inspect.ts";
import { parseVerity, verityParameter } from "./verity.ts";
import { hypervisorProgram, isDebug } from "./drivers.ts";
import { type DiskOptions, type GuestAgent, type Machine, type Memory, type RootImage, VSOCK_PORT } from "./machine.ts";
import { diskRates } from "./rates.ts";

/** Guest's kernel and what it starts from, where the configuration names none. */
export interface GuestFiles {
  readonly kernel: string;
  readonly initrd: string | undefined;
  readonly image: string | undefined;
  /** Undefined: berth's own. */
  readonly agent?: GuestAgent | undefined;
  /** Whether its kernel is known to have 9p. */
  readonly has9p?: boolean;
}

export type MachineShape = Omit<Machine, "id" | "directory" | "shares" | "nics" | "disks" | "devices">;

/** Memory and processors beside those that the configuration gives every machine. */
interface More {
  readonly memoryBytes: number;
  readonly cpus: number;
}

const NO_MORE: More = { memoryBytes: 0, cpus: 0 };

/** All of a machine that its configuration says. Throws VmError. */
export function machineShape(settings: VmSettings, files: GuestFiles, more: More = NO_MORE): MachineShape {
  const { hypervisor } = settings;
  const image = files.image === undefined ? undefined : rootImage(settings, files.image);
  if (!image && settings.hypervisor.kernel_verity_params !== "")
    throw new VmError("InvalidConfiguration", "kernel_verity_params: it is about image, and there is none");
  const maxVcpus = maxVcpusOf(settings);
  const own = hypervisor.default_vcpus;
  const vcpus = Math.min(cpuCount(own < 0 || more.cpus === 0 ? own : Math.max(1, own) + more.cpus, 1), maxVcpus);
  return {
    program: hypervisorProgram(settings),
    kernel: files.kernel,
    initrd: files.initrd,
    image,
    commandLine: kernelCommandLine(settings, image, files.agent),
    agent: files.agent,
    vcpus,
    maxVcpus,
    memory: memoryOf(settings, more),
    diskOptions: diskOptionsOf(settings),
    entropy: hypervisor.entropy_source,
    reportsFreePages: hypervisor.reclaim_guest_freed_memory,
  };
}

export const maxVcpusOf = ({ hypervisor }: VmSettings): number =>
  cpuCount(hypervisor.default_maxvcpus, availableParallelism());

/** 0: as many as `none`; less: all; a fraction rounded up, and never more than there are. */
function cpuCount(asked: number, none: number): number {
  const all = availableParallelism();
  if (asked === 0) return none;
  return asked < 0 ? all : Math.min(all, Math.ceil(asked));
}

/** What QEMU's smallest guest boots in; and DIMMs come in steps of this. */
const LEAST_MEMORY = 64;
const MEMORY_STEP = 2;

function memoryOf({ hypervisor }: VmSettings, more: More): Memory {
  const all = Math.floor(totalmem() / (1 << 20));
  const own = hypervisor.default_memory <= 0 ? 2048 : hypervisor.default_memory;
  if (own < LEAST_MEMORY)
    throw new VmError("InvalidConfiguration", `default_memory: ${own} MiB; a guest needs ${LEAST_MEMORY}`);
  const mib = own + Math.ceil(more.memoryBytes / (1 << 20));
  const most = hypervisor.default_maxmemory <= 0 ? all : Math.min(all, hypervisor.default_maxmemory);
  return {
    mib: Math.ceil(mib / MEMORY_STEP) * MEMORY_STEP,
    maxMib: Math.max(mib, Math.floor(most / MEMORY_STEP) * MEMORY_STEP),
    slots: hypervisor.memory_slots <= 0 ? 10 : hypervisor.memory_slots,
    prealloc: hypervisor.enable_mem_prealloc,
    hugepages: hypervisor.enable_hugepages,
    lock: !hypervisor.enable_swap,
    fileDirectory: hypervisor.file_mem_backend,
    offsetMib: hypervisor.memory_offset,
    virtioMem: hypervisor.enable_virtio_mem,
  };
}

export function diskOptionsOf(settings: VmSettings): DiskOptions {
  const { hypervisor } = settings;
  return {
    driver: hypervisor.block_device_driver === "virtio-scsi" ? "virtio-scsi" : "virtio-blk",
    aio: hypervisor.block_device_aio as DiskOptions["aio"],
    cache: hypervisor.block_device_cache_set
      ? { direct: hypervisor.block_device_cache_direct, noFlush: hypervisor.block_device_cache_noflush }
      : undefined,
    logicalSector: hypervisor.block_device_logical_sector_size,
    physicalSector: hypervisor.block_device_physical_sector_size,
    queues: hypervisor.num_queues,
    queueSize: hypervisor.queue_size,
    iothread: hypervisor.enable_iothreads,
    rates: diskRates(settings),
  };
}

const LIGHT: readonly string[] = ["firecracker", "stratovirt"];

/** Their devices are on virtio-mmio. */
const hasNoPci = ({ name, hypervisor }: VmSettings): boolean =>
  LIGHT.includes(name) || hypervisor.machine_type === "microvm";

function rootImage(settings: VmSettings, path: string): RootImage {
  const { hypervisor } = settings;
  const asked = hypervisor.vm_rootfs_driver;
  const byDefault = hypervisor.disable_image_nvdimm || hasNoPci(settings) ? "blk" : "pmem";
  const driver = asked === "" ? byDefault : asked === "virtio-pmem" ? "pmem" : "blk";
  if (!existsSync(path)) throw new VmError("Missing", `image: ${path} is not there`);
  const { size, type, partitioned } = inspectImage(path);
  const named = hypervisor.rootfs_type as RootType | "";
  if (named !== "" && type !== undefined && named !== type)
    throw new VmError("InvalidConfiguration", `rootfs_type: "${named}", but ${path} is ${type}`);
  const verity = parseVerity(hypervisor.kernel_verity_params);
  if (verity && !partitioned)
    throw new VmError("InvalidConfiguration", `kernel_verity_params: ${path} has no partition for the hashes`);
  return { path, driver, size, partitioned, type: named === "" ? (type ?? "erofs") : named, verity };
}

/** As they stand, or with a name before "=": the last of a name counts, so that those of the configuration do. */
export function kernelCommandLine(settings: VmSettings, image: RootImage | undefined, agent?: GuestAgent): string[] {
  const { hypervisor } = settings;
  const own = [
    "tsc=reliable",
    "no_timer_check",
    "rcupdate.rcu_expedited=1",
    "i8042.direct=1",
    "i8042.dumbkbd=1",
    "i8042.nopnp=1",
    "i8042.noaux=1",
    "noreplace-smp",
    "reboot=k",
    "panic=1",
    "cryptomgr.notests",
    "net.ifnames=0",
    "cgroup_no_v1=all",
    "memhp_default_state=online",
    "random.trust_cpu=on",
    // Ten thousand files of tracefs, 8 MB and a tenth of the time that it boots.
    "initcall_blacklist=tracer_init_tracefs",
    ...hypervisorParameters(settings),
    ...(isDebug(settings) ? ["debug"] : ["quiet"]),
    ...(hypervisor.enable_iommu ? ["intel_iommu=on", "iommu=pt"] : []),
    ...(image === undefined ? ["rdinit=/init"] : imageParameters(image)),
    ...(agent === undefined ? ["berth.guest"] : agentParameters(settings, agent)),
    // For Kata's agent; berth's guest has a shell where its image was given one.
    ...(settings.agent.debug_console_enabled ? ["agent.debug_console", "agent.debug_console_vport=1026"] : []),
  ];
  const asked = hypervisor.kernel_params.split(/\s+/).filter((word) => word !== "");
  const names = new Set(asked.map(nameOf));
  return [...own.filter((word) => !names.has(nameOf(word))), ...asked];
}

function hypervisorParameters(settings: VmSettings): string[] {
  const { name, hypervisor } = settings;
  const vsock = `berth.channel=vsock:${VSOCK_PORT}`;
  const console = hypervisor.use_legacy_serial ? "console=ttyS0" : "console=hvc0";
  switch (name) {
    case "qemu":
      return [console, hasNoPci(settings) ? "pci=off" : "pci=lastbus=0"];
    case "clh":
      return [console, vsock];
    case "firecracker":
      // Each letter is an exit of the machine's: without debugging there is no port at all. Its devices are told of by ACPI.
      return [...(isDebug(settings) ? ["console=ttyS0"] : ["8250.nr_uarts=0"]), "pci=off", "iommu=off", vsock];
    case "stratovirt":
      return ["console=ttyS0", "pci=off", "iommu=off", "acpi=off", vsock];
  }
}

/** In the guest, where berth's channel leads to it. */
export const CARRIED_SOCKET = "/run/berth-agent.sock";

/** As kata-runtime has them; systemd's are for guests that have it. */
function agentParameters(settings: VmSettings, agent: GuestAgent): string[] {
  const { container_pipe_size: pipe } = settings.agent;
  return [
    "systemd.unit=kata-containers.target",
    "systemd.mask=systemd-networkd.service",
    "systemd.mask=systemd-networkd.socket",
    "systemd.unified_cgroup_hierarchy=1",
    ...(agent === "kata-carried"
      ? ["berth.guest", `berth.agent=${AGENT_PATH}`, `agent.server_addr=unix://${CARRIED_SOCKET}`]
      : []),
    ...(isDebug(settings) ? ["agent.log=debug"] : []),
    ...(pipe > 0 ? [`agent.container_pipe_size=${pipe}`] : []),
  ];
}

const nameOf = (parameter: string): string => parameter.split("=")[0] ?? parameter;

/** Its init is where the kernel looks for one: /sbin/init. */
function imageParameters({ driver, type, partitioned, verity }: RootImage): string[] {
  const isPmem = driver === "pmem";
  // Not by DAX: what is mapped would not be looked at.
  if (verity) {
    const flags = type === "ext4" ? ["rootflags=data=ordered,errors=remount-ro"] : [];
    return [
      verityParameter(verity, isPmem ? "/dev/pmem0p" : "/dev/vda"),
      "root=/dev/dm-0",
      "ro",
      `rootfstype=${type}`,
      ...flags,
    ];
  }
  const dax = type === "ext4" ? "rootflags=dax,data=ordered,errors=remount-ro" : "rootflags=dax";
  const device = isPmem ? `/dev/pmem0${partitioned ? "p1" : ""}` : `/dev/vda${partitioned ? "1" : ""}`;
  return [`root=${device}`, "ro", `rootfstype=${type}`, ...(isPmem ? [dax] : [])];
}
