/** QEMU's command line (qemu-system-x86_64(1)), from a machine. Pure. */
import { VmError } from "../../errors.ts";
import {
  AGENT_PORT,
  channelSocket,
  controlSocket,
  COPY_MEMORY_FD,
  type Machine,
  type Nic,
  type Program,
  type Share,
} from "../machine.ts";
import { contextId } from "../vsock.ts";
import { blockNode, deviceId, diskDevice } from "./devices.ts";

export type MachineType = "q35" | "pc" | "microvm";

export interface QemuOptions {
  readonly machineType: MachineType;
  readonly accelerator: "kvm" | "tcg";
  /** Further options of -machine and -cpu, after a comma each. */
  readonly machineAccelerators: string;
  readonly cpuFeatures: string;
  readonly firmware: string;
  readonly pflashes: readonly string[];
  readonly sandbox: string;
  readonly bridges: number;
  readonly rootPorts: number;
  readonly iommu: boolean;
  readonly iommuPlatform: boolean;
  readonly legacySerial: boolean;
  readonly extraMonitor: string;
  /**
   * A copy of a template, whose memory and state are descriptors that it is started with: a memfd of its own, which virtiofsd can share, or
   * the template's file, of which it has what it writes for itself.
   */
  readonly copy?: "shared" | "private" | undefined;
}

type Flag = readonly [name: string, value?: string];

export function qemuProgram(machine: Machine, options: QemuOptions): Program {
  const flags: Flag[] = [
    ["nodefaults"],
    ["no-user-config"],
    ["no-reboot"],
    ["display", "none"],
    ["name", `sandbox-${machine.id},debug-threads=on`],
    ["machine", machineFlag(machine, options)],
    // QEMU's is legacy by default, which virtiofsd takes no part in.
    ...(options.machineType === "microvm" ? [["global", "virtio-mmio.force-legacy=false"] as const] : []),
    ["cpu", cpuFlag(options)],
    ["smp", `${machine.vcpus},sockets=${machine.maxVcpus},cores=1,threads=1,maxcpus=${machine.maxVcpus}`],
    ["m", memoryFlag(machine, options)],
    ["object", memoryBackend(machine, options)],
    ...monitors(machine, options),
    ...kernel(machine, options),
    ...console(options),
    ...(options.firmware === "" ? [] : [["bios", options.firmware] as const]),
    ...options.pflashes.map((file): Flag => ["drive", `if=pflash,format=raw,file=${escape(file)}`]),
    ...(options.sandbox === "" ? [] : [["sandbox", options.sandbox] as const]),
    ...(machine.memory.lock ? [["overcommit", "mem-lock=on"] as const] : []),
    ...bridges(options),
    ...(options.iommu ? [["device", "intel-iommu,intremap=off,caching-mode=on"] as const] : []),
    ...devices(machine, options),
    ...(options.copy ? [["incoming", "defer"] as const] : []),
  ];
  return {
    argv: [
      machine.program,
      ...flags.flatMap(([name, value]) => (value === undefined ? [`-${name}`] : [`-${name}`, value])),
    ],
    env: ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
    ...(options.copy && { keep: 2 }),
  };
}

/** QEMU keeps copies of both files for as long as it runs; what has booted does not read them again. */
function kernel({ kernel, initrd, commandLine }: Machine, { copy }: QemuOptions): Flag[] {
  if (copy) return [];
  return [
    ["kernel", kernel],
    ...(initrd === undefined ? [] : [["initrd", initrd] as const]),
    ["append", commandLine.join(" ")],
  ];
}

/** A comma ends a value: it is doubled. */
export const escape = (path: string): string => path.replaceAll(",", ",,");

function machineFlag(machine: Machine, options: QemuOptions): string {
  const { machineType, accelerator, machineAccelerators } = options;
  const parts = [machineType, `accel=${accelerator}`, "memory-backend=mem"];
  // Its devices are told of by ACPI: Debian's kernel takes none from its command line (CONFIG_VIRTIO_MMIO_CMDLINE_DEVICES).
  if (machineType === "microvm") {
    parts.push("acpi=on", "auto-kernel-cmdline=off", "pit=off", "pic=off", "rtc=on", "isa-serial=on");
  } else {
    if (accelerator === "kvm") parts.push("kernel_irqchip=split");
    if (machine.image?.driver === "pmem") parts.push("nvdimm=on");
  }
  if (machineType === "q35") parts.push("vmport=off", "smbus=off", "sata=off");
  return [...parts, ...(machineAccelerators === "" ? [] : [machineAccelerators])].join(",");
}

/** Without protection keys: V8 takes them for its code, and TCG's are found broken now and then. */
function cpuFlag({ accelerator, cpuFeatures }: QemuOptions): string {
  return [accelerator === "kvm" ? "host" : "max,-pku", ...(cpuFeatures === "" ? [] : [cpuFeatures])].join(",");
}

/** MiB that virtio-mem can bring. */
const virtioMemMib = ({ memory }: Machine): number =>
  memory.virtioMem ? Math.max(0, Math.floor((memory.maxMib - memory.mib) / VIRTIO_MEM_STEP) * VIRTIO_MEM_STEP) : 0;

export const VIRTIO_MEM = "vmem0";
/** MiB: what Linux takes memory into use by on x86. */
const VIRTIO_MEM_STEP = 128;

function virtioMem(machine: Machine, options: QemuOptions): Flag[] {
  const mib = virtioMemMib(machine);
  if (mib === 0) return [];
  if (options.machineType === "microvm")
    throw new VmError(
      "Unsupported",
      "enable_virtio_mem: machine_type microvm has no room for memory devices; use q35 or pc",
    );
  const huge = machine.memory.hugepages ? ",hugetlb=on" : "";
  return [
    // Of the host's memory it takes what the guest has been given.
    ["object", `memory-backend-memfd,id=${VIRTIO_MEM}-mem,size=${mib}M,share=on,reserve=off${huge}`],
    device(options, "virtio-mem", `id=${VIRTIO_MEM},memdev=${VIRTIO_MEM}-mem,requested-size=0,block-size=2M`),
  ];
}

function memoryFlag({ memory, image }: Machine, { machineType }: QemuOptions): string {
  if (machineType === "microvm" || (memory.maxMib <= memory.mib && image?.driver !== "pmem")) return `${memory.mib}M`;
  const image_ = image?.driver === "pmem" ? Math.ceil(image.size / (1 << 20)) : 0;
  return `${memory.mib}M,slots=${memory.slots},maxmem=${Math.max(memory.maxMib, memory.mib) + memory.offsetMib + image_}M`;
}

/** Shared with virtiofsd, which reads and writes the guest's memory. */
function memoryBackend({ memory }: Machine, { copy }: QemuOptions): string {
  const size = `size=${memory.mib}M`;
  if (copy !== undefined) {
    const share = copy === "shared" ? "on" : "off";
    return `memory-backend-file,id=mem,${size},mem-path=/proc/self/fd/${COPY_MEMORY_FD},share=${share}`;
  }
  const prealloc = memory.prealloc || memory.hugepages ? ",prealloc=on" : "";
  if (memory.fileDirectory !== "" && !memory.hugepages)
    return `memory-backend-file,id=mem,${size},mem-path=${escape(memory.fileDirectory)},share=on${prealloc}`;
  return `memory-backend-memfd,id=mem,${size},share=on${memory.hugepages ? ",hugetlb=on" : ""}${prealloc}`;
}

function monitors({ directory }: Machine, { extraMonitor }: QemuOptions): Flag[] {
  const own: Flag = ["qmp", `unix:${escape(controlSocket(directory))},server=on,wait=off`];
  if (extraMonitor === "") return [own];
  const chardev: Flag = ["chardev", `socket,id=extra,path=${escape(directory)}/extra-monitor.sock,server=on,wait=off`];
  const [mode, pretty] =
    extraMonitor === "hmp" ? ["readline", ""] : ["control", extraMonitor === "qmp-pretty" ? ",pretty=on" : ""];
  return [own, chardev, ["mon", `chardev=extra,mode=${mode}${pretty}`]];
}

/** What it says goes where the hypervisor's own words go: a file of its own would be as large as a guest likes. */
function console(options: QemuOptions): Flag[] {
  const chardev: Flag = ["chardev", "stdio,id=console,signal=off"];
  if (options.legacySerial) return [chardev, ["serial", "chardev:console"]];
  return [
    chardev,
    device(options, "virtio-serial", "id=consoles"),
    ["device", "virtconsole,chardev=console,bus=consoles.0"],
  ];
}

/** Devices on PCI, or on microvm's own bus. */
function device({ machineType, iommuPlatform }: QemuOptions, kind: string, rest: string): Flag {
  const name = `${kind}-${machineType === "microvm" ? "device" : "pci"}`;
  const platform = iommuPlatform ? ",iommu_platform=on" : "";
  return ["device", `${name},${rest}${platform}`];
}

export const rootPort = (index: number): string => `rp${index}`;

/** What can be hotplugged is: a port holds one device (q35), a bridge thirty (pc). */
function bridges({ machineType, bridges, rootPorts }: QemuOptions): Flag[] {
  if (machineType === "microvm") return [];
  if (machineType === "pc")
    return Array.from({ length: bridges }, (_, index): Flag => [
      "device",
      `pci-bridge,id=bridge${index},bus=pci.0,chassis_nr=${index + 1},shpc=off`,
    ]);
  return Array.from({ length: hotplugPorts({ bridges, rootPorts }) }, (_, index): Flag => [
    "device",
    `pcie-root-port,id=${rootPort(index)},bus=pcie.0,chassis=${index + 1},slot=${index + 1},multifunction=off`,
  ]);
}

/** Eight for each bridge that Kata would make. */
export const hotplugPorts = ({ bridges, rootPorts }: Pick<QemuOptions, "bridges" | "rootPorts">): number =>
  bridges * 8 + rootPorts;

function devices(machine: Machine, options: QemuOptions): Flag[] {
  const iothread = machine.diskOptions.iothread;
  return [
    ["chardev", `socket,id=channel,path=${escape(channelSocket(machine.directory))},server=on,wait=off`],
    device(options, "virtio-serial", "id=serial0"),
    ["device", `virtserialport,chardev=channel,bus=serial0.0,name=${AGENT_PORT}`],
    ...(machine.agent === "kata" ? [device(options, "vhost-vsock", `id=vsock0,guest-cid=${contextId(machine)}`)] : []),
    ["object", `rng-random,id=rng0,filename=${escape(machine.entropy)}`],
    device(options, "virtio-rng", "rng=rng0"),
    device(
      options,
      "virtio-balloon",
      `id=balloon0,deflate-on-oom=on,free-page-reporting=${machine.reportsFreePages ? "on" : "off"}`,
    ),
    ...(iothread ? [["object", "iothread,id=iothread0"] as const] : []),
    ...(machine.diskOptions.driver === "virtio-scsi"
      ? [device(options, "virtio-scsi", `id=scsi0${iothread ? ",iothread=iothread0" : ""}`)]
      : []),
    ...imageDevices(machine, options),
    ...virtioMem(machine, options),
    ...machine.shares.flatMap((share) => shareFlags(share, options)),
    ...nineFlags(machine, options),
    ...machine.nics.flatMap((nic) => nicFlags(nic, options)),
    ...vfioFlags(machine, options),
    ...machine.disks.flatMap((disk): Flag[] => [
      ["blockdev", JSON.stringify(blockNode(disk, machine.diskOptions))],
      ["device", JSON.stringify({ ...diskDevice(disk, machine.diskOptions, options.machineType), bus: undefined })],
    ]),
  ];
}

/** In the last ports, so that what is plugged later finds the first ones free. */
function vfioFlags({ devices }: Machine, options: QemuOptions): Flag[] {
  if (devices.length === 0) return [];
  if (options.machineType === "microvm")
    throw new VmError("Unsupported", "VFIO devices: machine_type microvm has no PCI; use q35 or pc");
  const ports = hotplugPorts(options);
  if (options.machineType === "q35" && devices.length > ports)
    throw new VmError("Unsupported", `${devices.length} VFIO devices: there are ${ports} ports; raise pcie_root_port`);
  return devices.map(({ id, address }, index): Flag => {
    const bus = options.machineType === "pc" ? "bridge0" : rootPort(ports - 1 - index);
    return ["device", `vfio-pci,host=${address},id=${deviceId(id)},bus=${bus}`];
  });
}

function imageDevices({ image }: Machine, options: QemuOptions): Flag[] {
  if (image === undefined) return [];
  if (image.driver === "pmem") {
    if (options.machineType === "microvm")
      throw new VmError(
        "Unsupported",
        "machine_type microvm has no NVDIMM: set disable_image_nvdimm = true, or vm_rootfs_driver = virtio-blk-mmio",
      );
    const backend = `memory-backend-file,id=image,mem-path=${escape(image.path)},size=${image.size},share=on,readonly=on`;
    return [
      ["object", backend],
      ["device", "nvdimm,id=nv0,memdev=image,unarmed=on"],
    ];
  }
  return [
    ["drive", `id=image,file=${escape(image.path)},format=raw,if=none,readonly=on,file.locking=off`],
    device(options, "virtio-blk", "drive=image"),
  ];
}

function shareFlags({ tag, socket, queueSize, cacheSize }: Share, options: QemuOptions): Flag[] {
  const cache = cacheSize > 0 ? `,cache-size=${cacheSize}M` : "";
  return [
    ["chardev", `socket,id=share-${tag},path=${escape(socket)}`],
    device(options, "vhost-user-fs", `chardev=share-${tag},tag=${tag},queue-size=${queueSize}${cache}`),
  ];
}

/** What is mounted in it later has devices of its own, whose inodes' numbers must not be taken for one another. */
function nineFlags({ nine }: Machine, options: QemuOptions): Flag[] {
  if (nine === undefined) return [];
  return [
    ["fsdev", `local,id=nine,path=${escape(nine.path)},security_model=none,multidevs=remap`],
    device(options, "virtio-9p", `fsdev=nine,mount_tag=${nine.tag}`),
  ];
}

function nicFlags({ id, tap, mac, queues, vhost, fd }: Nic, options: QemuOptions): Flag[] {
  const many = queues > 1;
  const which = fd === undefined ? `ifname=${tap},script=no,downscript=no` : `fd=${fd}`;
  const backend = `tap,id=${id},${which},vhost=${vhost ? "on" : "off"}${many ? `,queues=${queues}` : ""}`;
  const vectors = many && options.machineType !== "microvm" ? `,mq=on,vectors=${2 * queues + 2}` : "";
  return [
    ["netdev", backend],
    // No option ROM: it is loaded for booting from the network, and costs a quarter of a second.
    device(
      options,
      "virtio-net",
      `id=${id}-dev,netdev=${id},mac=${mac}${vectors}${options.machineType === "microvm" ? "" : ",romfile="}`,
    ),
  ];
}
