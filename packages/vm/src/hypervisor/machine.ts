/** A virtual machine as every hypervisor is told of it, and what a hypervisor can do with one. */

import type { VfioDevice } from "./vfio.ts";

/** A token bucket a second; 0: no limit. `burst`: what may go at once when nothing has for a while. */
export interface Rate {
  readonly perSecond: number;
  readonly burst: number;
}

/** Of a device: bytes and operations. */
export interface Rates {
  readonly bytes: Rate;
  readonly operations: Rate;
}

export const UNLIMITED: Rates = { bytes: { perSecond: 0, burst: 0 }, operations: { perSecond: 0, burst: 0 } };

export interface Share {
  /** What the guest mounts it by. */
  readonly tag: string;
  /** virtiofsd's vhost-user socket. */
  readonly socket: string;
  readonly queueSize: number;
  /** MiB of the DAX window; 0: none. */
  readonly cacheSize: number;
}

/** A share that the hypervisor itself serves. */
export interface NineShare {
  readonly tag: string;
  /** Of the host. */
  readonly path: string;
}

export interface Nic {
  /** Unique in the machine, as "net0". */
  readonly id: string;
  /** Name of the tap in the network namespace that the hypervisor runs in; one that is not there is made. */
  readonly tap: string;
  readonly mac: string;
  readonly queues: number;
  readonly vhost: boolean;
  /** The tap is open as this descriptor of the hypervisor's. */
  readonly fd?: number | undefined;
  /** What the guest receives, and what it sends. */
  readonly rx: Rates;
  readonly tx: Rates;
}

export interface Disk {
  /** Unique in the machine, and its serial number: how the guest finds it. At most 20 letters. */
  readonly id: string;
  /** An image or a block device of the host. */
  readonly path: string;
  readonly readonly: boolean;
  /** What the image is; default: the disk itself. QEMU alone has others. */
  readonly format?: "raw" | "vmdk";
}

export interface DiskOptions {
  readonly driver: "virtio-blk" | "virtio-scsi";
  readonly aio: "threads" | "native" | "io_uring";
  /** Undefined: the hypervisor's own. */
  readonly cache: { readonly direct: boolean; readonly noFlush: boolean } | undefined;
  readonly logicalSector: number;
  readonly physicalSector: number;
  readonly queues: number;
  readonly queueSize: number;
  readonly iothread: boolean;
  readonly rates: Rates;
}

/** What Linux calls its virtio block devices, in their order. */
export const virtioDisk = (index: number): string => `vd${"abcdefghijklmnopqrstuvwxyz"[index] ?? ""}`;

/** How a guest finds a disk: by its serial number, or where it cannot be given one by its name, as "vdb". */
export type DiskPlace = { readonly serial: string } | { readonly device: string };

export interface RootImage {
  readonly path: string;
  readonly driver: "pmem" | "blk";
  /** Bytes: an NVDIMM's. */
  readonly size: number;
  readonly type: "erofs" | "ext4" | "xfs";
  /** The file system is in its first partition. */
  readonly partitioned: boolean;
  /** dm-verity holds it against the hashes in the second. */
  readonly verity?: RootVerity | undefined;
}

export interface RootVerity {
  /** In hexadecimal. */
  readonly rootHash: string;
  readonly salt: string;
  readonly dataBlocks: number;
  /** Bytes. */
  readonly dataBlockSize: number;
  readonly hashBlockSize: number;
}

export interface Memory {
  readonly mib: number;
  readonly maxMib: number;
  readonly slots: number;
  readonly prealloc: boolean;
  readonly hugepages: boolean;
  readonly lock: boolean;
  /** A directory: the memory is a file there. "": anonymous. */
  readonly fileDirectory: string;
  /** MiB of address space for NVDIMMs. */
  readonly offsetMib: number;
  readonly virtioMem: boolean;
}

/** Who answers in a guest that is not berth's: Kata's agent on vsock, or at a socket of the guest's that berth's channel leads to. */
export type GuestAgent = "kata" | "kata-carried";

export interface Machine {
  readonly id: string;
  /** Its pod's whole id; default: the machine's own. */
  readonly pod?: string | undefined;
  readonly program: string;
  readonly kernel: string;
  readonly initrd: string | undefined;
  readonly image: RootImage | undefined;
  readonly commandLine: readonly string[];
  readonly vcpus: number;
  readonly maxVcpus: number;
  readonly memory: Memory;
  /** Where its sockets are; its own. */
  readonly directory: string;
  readonly shares: readonly Share[];
  /** By 9p, which QEMU alone has. */
  readonly nine?: NineShare | undefined;
  readonly nics: readonly Nic[];
  readonly disks: readonly Disk[];
  /** Devices of the host's that it has from its start. */
  readonly devices: readonly VfioDevice[];
  readonly diskOptions: DiskOptions;
  readonly entropy: string;
  readonly reportsFreePages: boolean;
  /** Undefined: berth's own. */
  readonly agent?: GuestAgent | undefined;
}

/** Sockets and files of a machine, in its directory. */
export const controlSocket = (directory: string): string => `${directory}/control.sock`;
export const channelSocket = (directory: string): string => `${directory}/channel.sock`;
export const consoleLog = (directory: string): string => `${directory}/console.log`;

/** Where the guest's program is reached, by hybrid vsock's handshake: `bosun relay` listens there, or the hypervisor itself. */
export const guestSocket = (directory: string): string => `${directory}/relay.sock`;

export const AGENT_PORT = "berth.agent";
/** Of a guest's program on vsock. */
export const VSOCK_PORT = 1024;

/** What comes between the host and the guest's program. */
export type Channel =
  /** A way that `bosun relay` shares out: the socket of a serial port, or "vsock:CID:PORT". */
  | { readonly by: "relay"; readonly channel: string }
  /** The hypervisor listens at guestSocket. */
  | { readonly by: "hypervisor" };

export interface Program {
  readonly argv: readonly string[];
  readonly env: readonly string[];
  /** Descriptors that it is to have, from 3; none. */
  readonly keep?: number;
}

/** A copy of a template is started with two files open: its memory and the state of everything else. */
export const COPY_MEMORY_FD = 3;
export const COPY_STATE_FD = 4;

export interface Capabilities {
  readonly sharedFiles: boolean;
  readonly hotplugDisks: boolean;
  /** They can grow while they are used. */
  readonly resizeDisks: boolean;
  readonly hotplugNics: boolean;
  readonly resizeVcpus: boolean;
  /** More than it was started with; less than it has can be asked of every guest, by its balloon. */
  readonly growMemory: boolean;
  readonly templates: boolean;
  /** It keeps the rates of network devices; the host's traffic control does where it does not. */
  readonly limitsNics: boolean;
  /** Devices of the host's can be handed to it. */
  readonly vfio: boolean;
  readonly pmemImage: boolean;
}

/** What makes a template of a machine, and a pod's machine of its copy. */
export interface TemplateControl {
  /** The guest gives back what it has more than so many bytes; or takes it again. Resolves when it has. */
  inflate(bytes: number, signal?: AbortSignal): Promise<void>;
  /** All of a paused machine but its memory, into a file. */
  save(state: string, signal?: AbortSignal): Promise<void>;
  /** Into a copy that runs: the guest finds it when it looks at its bus again. */
  addShare(share: Share): Promise<void>;
}

/** A running hypervisor, by its control socket. Every call rejects with VmError Hypervisor, or Unsupported where it cannot. */
export interface Vm {
  /** What the hypervisor says it is, as "7.2.22". */
  readonly version: string;
  /** Resolves, with the reason, when the hypervisor is gone. */
  readonly ended: Promise<string>;
  /** Undefined: it has no templates. */
  readonly template?: TemplateControl | undefined;
  /** The machine's taps are there when it returns. */
  boot(): Promise<void>;
  pause(): Promise<void>;
  resume(): Promise<void>;
  addDisk(disk: Disk, options: DiskOptions): Promise<DiskPlace>;
  removeDisk(id: string): Promise<void>;
  /** What is behind one of its disks has so many bytes, or shall have where it is a file; more than before. The guest is told. */
  resizeDisk(disk: Pick<Disk, "id" | "path">, bytes: number): Promise<void>;
  addNic(nic: Nic): Promise<void>;
  removeNic(id: string): Promise<void>;
  addDevice(device: VfioDevice): Promise<void>;
  removeDevice(id: string): Promise<void>;
  vcpus(): Promise<number>;
  /** Answers how many there are then, which may be more; the guest has to take them into use. */
  setVcpus(count: number): Promise<number>;
  /** MiB in all; answers what it is then, in the hypervisor's steps. Less than before is a request to the guest. */
  setMemory(mib: number): Promise<number>;
  /** Bytes that the guest has, hotplugged ones too. */
  memoryBytes(): Promise<number>;
  /** Ends the hypervisor, where it can be told to. */
  stop(): Promise<void>;
  /** Ends the connection; the machine runs on. */
  close(): void;
}

export interface Hypervisor {
  readonly name: string;
  readonly capabilities: Capabilities;
  /** What is started. Pure. Throws VmError Unsupported naming what it cannot do. */
  program(machine: Machine): Program;
  channel(machine: Machine): Channel;
  /** Connects to one that has been started, with the machine that it was started for. */
  connect(machine: Machine, signal?: AbortSignal): Promise<Vm>;
}
