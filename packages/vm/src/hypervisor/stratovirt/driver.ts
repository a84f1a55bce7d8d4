/** StratoVirt's light machine: started with its command line, then told over QMP (docs/qmp.md, v2.3). */
import { VmError } from "../../errors.ts";
import { Qmp, QmpError } from "../../qmp/client.ts";
import { connectWhenThere } from "../connect.ts";
import { vsockChannel } from "../vsock.ts";
import {
  controlSocket,
  type Disk,
  type DiskOptions,
  type DiskPlace,
  type Hypervisor,
  type Machine,
  virtioDisk,
  type Vm,
} from "../machine.ts";
import { BLOCK_SLOTS, slotsAtStart, stratovirtProgram, type StratoVirtOptions } from "./command.ts";

export function stratovirt(options: StratoVirtOptions): Hypervisor {
  return {
    name: "StratoVirt",
    capabilities: {
      sharedFiles: true,
      hotplugDisks: true,
      resizeDisks: false,
      hotplugNics: false,
      resizeVcpus: false,
      growMemory: false,
      vfio: false,
      limitsNics: false,
      templates: false,
      pmemImage: false,
    },
    program: (machine) => stratovirtProgram(machine, options),
    channel: (machine) => ({ by: "relay", channel: vsockChannel(machine) }),
    connect: async (machine, signal) => {
      const qmp = await connectWhenThere(
        controlSocket(machine.directory),
        (path) => Qmp.connect(path, { signal }),
        signal,
      );
      return new StratoVirtVm(qmp, machine);
    },
  };
}

const MIB = 1 << 20;

class StratoVirtVm implements Vm {
  readonly #qmp: Qmp;
  readonly #machine: Machine;

  constructor(qmp: Qmp, machine: Machine) {
    this.#qmp = qmp;
    this.#machine = machine;
  }

  get version(): string {
    return this.#qmp.version;
  }

  get ended(): Promise<string> {
    return this.#qmp.ended;
  }

  /** It boots as it is started. */
  boot(): Promise<void> {
    return Promise.resolve();
  }

  async pause(): Promise<void> {
    await this.#qmp.execute("stop");
  }

  async resume(): Promise<void> {
    await this.#qmp.execute("cont");
  }

  /** A block device without anything behind it is in each slot since the start; the guest sees it change size. */
  async addDisk(disk: Disk, options: DiskOptions): Promise<DiskPlace> {
    const direct = options.cache?.direct ?? false;
    await this.#qmp.execute("blockdev-add", {
      "node-name": disk.id,
      file: {
        driver: "file",
        filename: disk.path,
        ...(direct && options.aio !== "threads" && { aio: engine(options) }),
      },
      cache: { direct },
      "read-only": disk.readonly,
    });
    try {
      const slot = await this.#plug(disk.id);
      return { device: virtioDisk(slot) };
    } catch (error) {
      // It has no blockdev-del: this takes the node away, and then misses the device.
      await this.#qmp.execute("device_del", { id: disk.id }).catch(onlyRefused);
      throw error;
    }
  }

  async removeDisk(id: string): Promise<void> {
    await this.#qmp.execute("device_del", { id });
  }

  resizeDisk({ id }: Pick<Disk, "id">): Promise<void> {
    return unsupported(`disk ${id}: StratoVirt's disks keep the size that they are plugged with`);
  }

  addNic(): Promise<void> {
    return unsupported(
      "network devices: StratoVirt gives one that comes while it runs no address that the guest could know it by",
    );
  }

  removeNic(): Promise<void> {
    return unsupported("network devices: StratoVirt's microvm keeps what it starts with");
  }

  addDevice(): Promise<void> {
    return unsupported("VFIO devices: StratoVirt's microvm takes none");
  }

  removeDevice(): Promise<void> {
    return this.addDevice();
  }

  async vcpus(): Promise<number> {
    return (await this.#qmp.execute<readonly unknown[]>("query-cpus")).length;
  }

  async setVcpus(count: number): Promise<number> {
    const present = await this.vcpus();
    if (count === present) return present;
    return await unsupported(`${count} processors: StratoVirt's microvm keeps what it starts with (${present})`);
  }

  async setMemory(mib: number): Promise<number> {
    const present = this.#machine.memory.mib;
    if (mib > present)
      return await unsupported(
        `${mib} MiB: StratoVirt's microvm does not grow (${present} MiB); set default_memory, or static_sandbox_resource_mgmt = true`,
      );
    await this.#qmp.execute("balloon", { value: mib * MIB });
    return present;
  }

  memoryBytes(): Promise<number> {
    return Promise.resolve(this.#machine.memory.mib * MIB);
  }

  async stop(): Promise<void> {
    try {
      await this.#qmp.execute("quit");
    } catch (error) {
      // It may be gone before it has answered.
      if (error instanceof QmpError || this.#qmp.isOpen) throw error;
    }
  }

  close(): void {
    this.#qmp.close();
  }

  /** Which is free it does not tell, but refuses one that is taken. */
  async #plug(id: string): Promise<number> {
    for (let slot = slotsAtStart(this.#machine); slot < BLOCK_SLOTS; slot++) {
      try {
        await this.#qmp.execute("device_add", {
          id,
          driver: "virtio-blk-mmio",
          addr: `0x${slot.toString(16)}`,
          drive: id,
        });
        return slot;
      } catch (error) {
        if (!(error instanceof QmpError) || !/occupied/.test(error.message)) throw error;
      }
    }
    return await unsupported(`block devices: StratoVirt's microvm has ${BLOCK_SLOTS} slots, and they are taken`);
  }
}

const engine = ({ aio }: DiskOptions): string => (aio === "io_uring" ? "iouring" : "native");

function onlyRefused(error: unknown): void {
  if (!(error instanceof QmpError)) throw error;
}

const unsupported = (message: string): Promise<never> => Promise.reject(new VmError("Unsupported", message));
