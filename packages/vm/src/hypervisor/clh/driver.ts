/** Cloud Hypervisor: started with its API's socket alone, then told of the machine over that (REST, /api/v1). */
import { VmError } from "../../errors.ts";
import { connectWhenThere } from "../connect.ts";
import { HttpApi, type Method } from "../http.ts";
import {
  controlSocket,
  type Disk,
  type DiskOptions,
  type DiskPlace,
  type Hypervisor,
  type Machine,
  type Nic,
  type Program,
  type Vm,
} from "../machine.ts";
import type { VfioDevice } from "../vfio.ts";
import { type ClhOptions, deviceConfig, diskConfig, grownMib, hotplugMib, netConfig, vmConfig } from "./config.ts";
import { eventsFile, removed } from "./events.ts";

const MIB = 1 << 20;

export function cloudHypervisor(options: ClhOptions): Hypervisor {
  return {
    name: "Cloud Hypervisor",
    capabilities: {
      sharedFiles: true,
      hotplugDisks: true,
      resizeDisks: true,
      hotplugNics: true,
      resizeVcpus: true,
      growMemory: true,
      vfio: true,
      limitsNics: true,
      templates: false,
      pmemImage: true,
    },
    program: (machine) => clhProgram(machine, options),
    channel: () => ({ by: "hypervisor" }),
    connect: async (machine, signal) => {
      const api = await connectWhenThere(controlSocket(machine.directory), (path) => HttpApi.connect(path), signal);
      try {
        const { version } = await api.call<{ version: string }>("GET", "/api/v1/vmm.ping", undefined, { signal });
        return new ClhVm(api, version.replace(/^v/, ""), machine, options);
      } catch (error) {
        api.close();
        throw error;
      }
    },
  };
}

/** Pure. */
export function clhProgram(machine: Machine, { logLevel, seccomp }: ClhOptions): Program {
  refuse(machine);
  return {
    argv: [
      machine.program,
      "--api-socket",
      `path=${controlSocket(machine.directory)}`,
      "--event-monitor",
      `path=${eventsFile(machine.directory)}`,
      ...(logLevel > 0 ? [`-${"v".repeat(Math.min(3, logLevel))}`] : []),
      ...(seccomp ? [] : ["--seccomp", "false"]),
    ],
    env: ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
  };
}

function refuse({ shares, memory, diskOptions }: Machine): void {
  if (shares.some(({ cacheSize }) => cacheSize > 0))
    throw new VmError(
      "Unsupported",
      "virtio_fs_cache_size: Cloud Hypervisor has no DAX window for virtio-fs; set it to 0",
    );
  if (memory.fileDirectory !== "")
    throw new VmError("Unsupported", "file_mem_backend: Cloud Hypervisor's memory is anonymous");
  if (diskOptions.driver !== "virtio-blk")
    throw new VmError(
      "Unsupported",
      `block_device_driver: Cloud Hypervisor has no ${diskOptions.driver}; use virtio-blk`,
    );
}

type VmmState = "Created" | "Running" | "Shutdown" | "Paused" | "BreakPoint";

interface VmInfo {
  readonly state: VmmState;
  readonly config: {
    readonly cpus: { readonly boot_vcpus: number };
    readonly memory: { readonly size: number; readonly hotplugged_size?: number | null };
  };
}

class ClhVm implements Vm {
  readonly version: string;
  readonly #api: HttpApi;
  readonly #machine: Machine;
  readonly #options: ClhOptions;

  constructor(api: HttpApi, version: string, machine: Machine, options: ClhOptions) {
    this.#api = api;
    this.version = version;
    this.#machine = machine;
    this.#options = options;
  }

  get ended(): Promise<string> {
    return this.#api.ended;
  }

  async boot(): Promise<void> {
    await this.#call("PUT", "vm.create", vmConfig(this.#machine, this.#options));
    await this.#call("PUT", "vm.boot");
  }

  async pause(): Promise<void> {
    await this.#call("PUT", "vm.pause");
  }

  async resume(): Promise<void> {
    await this.#call("PUT", "vm.resume");
  }

  async addDisk(disk: Disk, options: DiskOptions): Promise<DiskPlace> {
    await this.#call("PUT", "vm.add-disk", diskConfig(disk, options, this.#options));
    return { serial: disk.id };
  }

  async removeDisk(id: string): Promise<void> {
    await this.#remove(id);
  }

  async resizeDisk({ id }: Pick<Disk, "id">, bytes: number): Promise<void> {
    await this.#call("PUT", "vm.resize-disk", { id, desired_size: bytes });
  }

  async addNic(nic: Nic): Promise<void> {
    await this.#call("PUT", "vm.add-net", netConfig(nic, this.#options));
  }

  async removeNic(id: string): Promise<void> {
    await this.#remove(id);
  }

  async addDevice(device: VfioDevice): Promise<void> {
    await this.#call("PUT", "vm.add-device", deviceConfig(device, this.#options));
  }

  async removeDevice(id: string): Promise<void> {
    await this.#remove(id);
  }

  async vcpus(): Promise<number> {
    return (await this.#info()).config.cpus.boot_vcpus;
  }

  async setVcpus(count: number): Promise<number> {
    if (count > this.#machine.maxVcpus)
      throw new VmError(
        "Unsupported",
        `${count} processors: the machine was started for ${this.#machine.maxVcpus} (default_maxvcpus)`,
      );
    if (count !== (await this.vcpus())) await this.#call("PUT", "vm.resize", { desired_vcpus: count });
    return await this.vcpus();
  }

  /** ACPI takes no memory back: what is too much goes into the balloon. */
  async setMemory(mib: number): Promise<number> {
    const { memory } = this.#machine;
    const present = (await this.memoryBytes()) / MIB;
    const most = memory.mib + hotplugMib(this.#machine);
    const wanted = Math.max(memory.mib, grownMib(memory.mib, mib));
    if (mib > most)
      throw new VmError("Unsupported", `${mib} MiB: the machine was started for ${most} (default_maxmemory)`);
    const resizes = this.#options.virtioMem ? wanted !== present : wanted > present;
    if (resizes) await this.#call("PUT", "vm.resize", { desired_ram: wanted * MIB });
    const now = (await this.memoryBytes()) / MIB;
    await this.#call("PUT", "vm.resize", { desired_balloon: Math.max(0, now - mib) * MIB });
    return now;
  }

  async memoryBytes(): Promise<number> {
    const { memory } = (await this.#info()).config;
    return memory.size + (memory.hotplugged_size ?? 0);
  }

  async stop(): Promise<void> {
    try {
      await this.#call("PUT", "vmm.shutdown");
    } catch (error) {
      // It may be gone before it has answered.
      if (this.#api.isOpen) throw error;
    }
  }

  close(): void {
    this.#api.close();
  }

  async #call<T = undefined>(method: Method, name: string, body?: unknown): Promise<T> {
    return await this.#api.call<T>(method, `/api/v1/${name}`, body);
  }

  #info(): Promise<VmInfo> {
    return this.#call<VmInfo>("GET", "vm.info");
  }

  async #remove(id: string): Promise<void> {
    await removed(this.#machine.directory, id, () => this.#call("PUT", "vm.remove-device", { id }));
  }
}
