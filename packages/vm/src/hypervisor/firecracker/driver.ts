/** Firecracker: started with its API's socket alone, then told of the machine over that, piece by piece. */
import { open, rm, stat, symlink, truncate, writeFile } from "node:fs/promises";
import { VmError } from "../../errors.ts";
import { connectWhenThere } from "../connect.ts";
import { HttpApi } from "../http.ts";
import {
  controlSocket,
  type Disk,
  type DiskPlace,
  type Hypervisor,
  type Machine,
  type Program,
  virtioDisk,
  type Vm,
} from "../machine.ts";
import {
  bootRequests,
  type FirecrackerOptions,
  placeholder,
  PLACEHOLDER_SIZE,
  placeholderFile,
  PLACEHOLDERS,
} from "./requests.ts";

export function firecracker(options: FirecrackerOptions): Hypervisor {
  return {
    name: "Firecracker",
    capabilities: {
      sharedFiles: false,
      hotplugDisks: true,
      resizeDisks: true,
      hotplugNics: false,
      resizeVcpus: false,
      growMemory: false,
      vfio: false,
      limitsNics: true,
      templates: false,
      pmemImage: false,
    },
    program: (machine) => firecrackerProgram(machine, options),
    channel: () => ({ by: "hypervisor" }),
    connect: async (machine, signal) => {
      const api = await connectWhenThere(controlSocket(machine.directory), (path) => HttpApi.connect(path), signal);
      try {
        const { vmm_version: version } = await api.call<{ vmm_version: string }>("GET", "/", undefined, { signal });
        return new FirecrackerVm(api, version, machine);
      } catch (error) {
        api.close();
        throw error;
      }
    },
  };
}

/** Pure. Throws VmError for what it could not be told later, too. */
export function firecrackerProgram(machine: Machine, { logLevel, seccomp }: FirecrackerOptions): Program {
  bootRequests(machine);
  return {
    argv: [
      machine.program,
      "--api-sock",
      controlSocket(machine.directory),
      "--id",
      machine.id.replaceAll(/[^A-Za-z0-9-]/g, "-"),
      "--level",
      logLevel,
      ...(seccomp ? [] : ["--no-seccomp"]),
    ],
    env: ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
  };
}

interface Configuration {
  readonly drives?: readonly { readonly drive_id: string; readonly path_on_host: string }[];
  readonly "machine-config": { readonly vcpu_count: number; readonly mem_size_mib: number };
}

class FirecrackerVm implements Vm {
  readonly version: string;
  readonly #api: HttpApi;
  readonly #machine: Machine;

  constructor(api: HttpApi, version: string, machine: Machine) {
    this.#api = api;
    this.version = version;
    this.#machine = machine;
  }

  get ended(): Promise<string> {
    return this.#api.ended;
  }

  async boot(): Promise<void> {
    await checkKernel(this.#machine.kernel);
    await writeFile(placeholderFile(this.#machine.directory), Buffer.alloc(PLACEHOLDER_SIZE));
    for (const { method, route, body } of bootRequests(this.#machine)) await this.#api.call(method, route, body);
  }

  async pause(): Promise<void> {
    await this.#api.call("PATCH", "/vm", { state: "Paused" });
  }

  async resume(): Promise<void> {
    await this.#api.call("PATCH", "/vm", { state: "Resumed" });
  }

  /** The guest sees one of its disks change size. A placeholder can be written to, so one that must not is refused. */
  async addDisk(disk: Disk): Promise<DiskPlace> {
    if (disk.readonly)
      throw new VmError(
        "Unsupported",
        `disk ${disk.id}: what Firecracker is given while it runs can be written to; give it before the start`,
      );
    const pool = await this.#pool();
    const link = this.#link(disk.id);
    if (pool.includes(link)) throw new VmError("Hypervisor", `disk ${disk.id}: the machine has one of this name`);
    const index = pool.indexOf(placeholderFile(this.#machine.directory));
    if (index < 0)
      return await unsupported(`a Firecracker machine takes ${PLACEHOLDERS} disks while it runs, and they are taken`);
    await rm(link, { force: true });
    await symlink(disk.path, link);
    await this.#patch(index, link);
    const first = (this.#machine.image === undefined ? 0 : 1) + this.#machine.disks.length;
    return { device: virtioDisk(first + index) };
  }

  async removeDisk(id: string): Promise<void> {
    const index = (await this.#pool()).indexOf(this.#link(id));
    if (index < 0) throw new VmError("Hypervisor", `disk ${id}: the machine has none of this name`);
    await this.#patch(index, placeholderFile(this.#machine.directory));
    await rm(this.#link(id));
  }

  /** It looks how large what it is given is, and has no order to make it so. */
  async resizeDisk({ id, path }: Pick<Disk, "id" | "path">, bytes: number): Promise<void> {
    const index = (await this.#pool()).indexOf(this.#link(id));
    if (index < 0) throw new VmError("Hypervisor", `disk ${id}: the machine has none of this name`);
    if ((await stat(path)).isFile()) await truncate(path, bytes);
    await this.#patch(index, this.#link(id));
  }

  addNic(): Promise<void> {
    return unsupported("network devices: Firecracker takes none while it runs");
  }

  removeNic(): Promise<void> {
    return unsupported("network devices: Firecracker gives none back while it runs");
  }

  addDevice(): Promise<void> {
    return unsupported("VFIO devices: Firecracker takes none");
  }

  removeDevice(): Promise<void> {
    return this.addDevice();
  }

  async vcpus(): Promise<number> {
    return (await this.#configuration())["machine-config"].vcpu_count;
  }

  async setVcpus(count: number): Promise<number> {
    const present = await this.vcpus();
    if (count === present) return present;
    return await unsupported(`${count} processors: Firecracker's machines keep what they start with (${present})`);
  }

  async setMemory(mib: number): Promise<number> {
    const { mem_size_mib: present } = (await this.#configuration())["machine-config"];
    if (mib > present)
      return await unsupported(
        `${mib} MiB: Firecracker's machines do not grow (${present} MiB); set default_memory, or static_sandbox_resource_mgmt = true`,
      );
    await this.#api.call("PATCH", "/balloon", { amount_mib: present - mib });
    return present;
  }

  async memoryBytes(): Promise<number> {
    return (await this.#configuration())["machine-config"].mem_size_mib * (1 << 20);
  }

  stop(): Promise<void> {
    return unsupported("Firecracker has no order to end; the monitor of its process ends it");
  }

  close(): void {
    this.#api.close();
  }

  #configuration(): Promise<Configuration> {
    return this.#api.call<Configuration>("GET", "/vm/config");
  }

  /** A disk goes by a link of its name, which is how another berthd finds whose it is. */
  #link(id: string): string {
    return `${this.#machine.directory}/disk-${id.replaceAll("/", "_")}`;
  }

  /** What is behind each placeholder now. */
  async #pool(): Promise<string[]> {
    const { drives = [] } = await this.#configuration();
    return Array.from(
      { length: PLACEHOLDERS },
      (_, index) => drives.find(({ drive_id: id }) => id === placeholder(index))?.path_on_host ?? "",
    );
  }

  async #patch(index: number, path: string): Promise<void> {
    const id = placeholder(index);
    await this.#api.call("PATCH", `/drives/${id}`, { drive_id: id, path_on_host: path });
  }
}

const ELF = "\u007fELF";

/** On x86 it boots what a compressed image holds. */
async function checkKernel(path: string): Promise<void> {
  await using file = await open(path, "r");
  const { buffer } = await file.read(Buffer.alloc(ELF.length), 0, ELF.length, 0);
  if (buffer.toString("latin1") !== ELF)
    throw new VmError(
      "Unsupported",
      `kernel: ${path} is compressed, and Firecracker boots an uncompressed one (vmlinux); extract it, and name it by kernel`,
    );
}

const unsupported = (message: string): Promise<never> => Promise.reject(new VmError("Unsupported", message));
