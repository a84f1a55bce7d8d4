/** StratoVirt's command line (docs/config_guidebook.md, v2.3), of its light machine, microvm. Pure. */
import { VmError } from "../../errors.ts";
import {
  consoleLog,
  controlSocket,
  type Disk,
  type DiskOptions,
  type Machine,
  type Nic,
  type Program,
  type Share,
} from "../machine.ts";
import { contextId } from "../vsock.ts";

export interface StratoVirtOptions {
  /** Of STRATOVIRT_LOG_LEVEL. */
  readonly logLevel: string;
}

/** A light machine has room for so many, those that come while it runs included. */
export const BLOCK_SLOTS = 4;
const NIC_SLOTS = 2;
/** MiB. */
const LEAST_MEMORY = 128;

type Flag = readonly [name: string, value?: string];

export function stratovirtProgram(machine: Machine, { logLevel }: StratoVirtOptions): Program {
  refuse(machine);
  const { memory, image, directory, diskOptions } = machine;
  const flags: Flag[] = [
    ["name", `sandbox-${machine.id}`],
    ["machine", `microvm,dump-guest-core=off,mem-share=${machine.shares.length > 0 ? "on" : "off"}`],
    ["cpu", "host"],
    ["smp", `${machine.vcpus}`],
    ["m", `${memory.mib}M`],
    ...(memory.prealloc ? [["mem-prealloc"] as const] : []),
    ...(memory.hugepages ? [["mem-path", HUGEPAGES] as const] : []),
    ...(memory.fileDirectory === "" || memory.hugepages ? [] : [["mem-path", word(memory.fileDirectory)] as const]),
    ["qmp", `unix:${word(controlSocket(directory))},server,nowait`],
    ["kernel", machine.kernel],
    ...(machine.initrd === undefined ? [] : [["initrd", machine.initrd] as const]),
    ["append", machine.commandLine.join(" ")],
    ["serial", `file,path=${word(consoleLog(directory))}`],
    ["D"],
    ["disable-seccomp"],
    ["object", `rng-random,id=rng0,filename=${word(machine.entropy)}`],
    ["device", "virtio-rng-device,rng=rng0,id=rng0-dev"],
    ["device", `virtio-balloon-device,id=balloon0,deflate-on-oom=true,free-page-reporting=${machine.reportsFreePages}`],
    ["device", `vhost-vsock-device,id=vsock0,guest-cid=${contextId(machine)}`],
    ...(diskOptions.iothread ? [["object", "iothread,id=iothread0"] as const] : []),
    ...(image === undefined ? [] : diskFlags({ id: "image", path: image.path, readonly: true }, diskOptions)),
    ...machine.disks.flatMap((disk) => diskFlags(disk, diskOptions)),
    ...machine.nics.flatMap(nicFlags),
    ...machine.shares.flatMap(shareFlags),
  ];
  return {
    argv: [
      machine.program,
      ...flags.flatMap(([name, value]) => (value === undefined ? [`-${name}`] : [`-${name}`, value])),
    ],
    env: ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", `STRATOVIRT_LOG_LEVEL=${logLevel}`],
  };
}

/** Where Linux has huge pages mounted. */
const HUGEPAGES = "/dev/hugepages";

/** How many of its block devices' slots are taken at its start. */
export const slotsAtStart = ({ image, disks }: Pick<Machine, "image" | "disks">): number =>
  (image === undefined ? 0 : 1) + disks.length;

function refuse(machine: Machine): void {
  const { memory, image, nics, devices, diskOptions, shares } = machine;
  const no = (message: string): never => {
    throw new VmError("Unsupported", message);
  };
  if (memory.mib < LEAST_MEMORY) no(`default_memory: ${memory.mib} MiB; StratoVirt's least is ${LEAST_MEMORY}`);
  if (devices.length > 0) no("VFIO devices: StratoVirt's microvm takes none");
  if (image?.driver === "pmem") no("vm_rootfs_driver: StratoVirt has no NVDIMM; use virtio-blk-mmio");
  if (slotsAtStart(machine) > BLOCK_SLOTS)
    no(`${slotsAtStart(machine)} block devices: StratoVirt's microvm has ${BLOCK_SLOTS} slots`);
  if (nics.length > NIC_SLOTS) no(`${nics.length} network devices: StratoVirt's microvm has ${NIC_SLOTS} slots`);
  if (nics.some(({ queues }) => queues > 1))
    no("network_queues: a network device of StratoVirt's microvm has one queue pair");
  if (diskOptions.driver !== "virtio-blk")
    no(`block_device_driver: StratoVirt's microvm has no ${diskOptions.driver}; use virtio-mmio`);
  if (shares.some(({ cacheSize }) => cacheSize > 0))
    no("virtio_fs_cache_size: StratoVirt has no DAX window for virtio-fs; set it to 0");
}

/** It knows no way to write a comma within a value. */
function word(path: string): string {
  if (path.includes(",")) throw new VmError("Unsupported", `${path}: StratoVirt takes no path with a comma`);
  return path;
}

function diskFlags({ id, path, readonly }: Disk, { cache, iothread, rates }: DiskOptions): Flag[] {
  const direct = cache?.direct ?? false;
  const limit = rates.operations.perSecond > 0 ? `,throttling.iops-total=${rates.operations.perSecond}` : "";
  return [
    [
      "drive",
      `id=${id},file=${word(path)},readonly=${readonly ? "on" : "off"},direct=${direct ? "on" : "off"}${limit}`,
    ],
    ["device", `virtio-blk-device,drive=${id},id=${id}-dev,serial=${id}${iothread ? ",iothread=iothread0" : ""}`],
  ];
}

const nicFlags = ({ id, tap, mac, vhost, fd }: Nic): Flag[] => [
  ["netdev", `tap,id=${id},${fd === undefined ? `ifname=${tap}` : `fd=${fd}`}${vhost ? ",vhost=on" : ""}`],
  ["device", `virtio-net-device,netdev=${id},id=${id}-dev,mac=${mac}`],
];

const shareFlags = ({ tag, socket }: Share): Flag[] => [
  ["chardev", `socket,id=share-${tag},path=${word(socket)}`],
  ["device", `vhost-user-fs-device,id=share-${tag}-dev,chardev=share-${tag},tag=${tag}`],
];
