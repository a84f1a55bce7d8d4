/** QEMU: started with its command line, then told over QMP. */
import { VmError } from "../../errors.ts";
import { Qmp, QmpError } from "../../qmp/client.ts";
import {
  channelSocket,
  controlSocket,
  type Disk,
  type DiskOptions,
  type DiskPlace,
  type Hypervisor,
  type Machine,
  type Nic,
  type Program,
  type Share,
  type TemplateControl,
  type Vm,
} from "../machine.ts";
import { connectWhenThere } from "../connect.ts";
import { vsockChannel } from "../vsock.ts";
import { hotplugPorts, qemuProgram, rootPort, type QemuOptions } from "./command.ts";
import type { VfioDevice } from "../vfio.ts";
import { blockNode, deviceId, diskDevice, shareDevices } from "./devices.ts";
import { restoreState, templateControl } from "./template.ts";
import { cpuSlots, growMemory, memoryOf, removeCpu, resizeVirtioMem, shrinkBalloon } from "./resize.ts";

export function qemu(options: QemuOptions): Hypervisor {
  const hotplugs = options.machineType !== "microvm";
  return {
    name: "qemu",
    capabilities: {
      sharedFiles: true,
      hotplugDisks: hotplugs,
      resizeDisks: true,
      hotplugNics: hotplugs,
      resizeVcpus: hotplugs,
      growMemory: hotplugs,
      vfio: hotplugs,
      limitsNics: false,
      templates: true,
      pmemImage: hotplugs,
    },
    program: (machine: Machine): Program => qemuProgram(machine, options),
    channel: (machine) => ({
      by: "relay",
      channel: machine.agent === "kata" ? vsockChannel(machine) : channelSocket(machine.directory),
    }),
    connect: async (machine, signal) => {
      const socket = controlSocket(machine.directory);
      const qmp = await connectWhenThere(socket, (path) => Qmp.connect(path, { signal }), signal);
      return new QemuVm(qmp, machine, options);
    },
  };
}

/** How long a guest may take to let go of a device. */
const UNPLUG_MS = 30_000;

class QemuVm implements Vm {
  readonly #qmp: Qmp;
  readonly #machine: Machine;
  readonly #options: QemuOptions;
  readonly template: TemplateControl;
  /** Device by port. */
  readonly #ports = new Map<number, string>();

  constructor(qmp: Qmp, machine: Machine, options: QemuOptions) {
    this.#qmp = qmp;
    this.#machine = machine;
    this.#options = options;
    this.template = { ...templateControl(qmp, machine.directory), addShare: (share) => this.#addShare(share) };
  }

  get version(): string {
    return this.#qmp.version;
  }

  get ended(): Promise<string> {
    return this.#qmp.ended;
  }

  /** QEMU boots as it is started; a copy of a template first reads its state. */
  async boot(): Promise<void> {
    if (!this.#options.copy) return;
    await restoreState(this.#qmp);
    await this.resume();
  }

  async pause(): Promise<void> {
    await this.#qmp.execute("stop");
  }

  async resume(): Promise<void> {
    await this.#qmp.execute("cont");
  }

  async addDisk(disk: Disk, options: DiskOptions): Promise<DiskPlace> {
    this.#checkHotplug("block devices");
    await this.#qmp.execute("blockdev-add", blockNode(disk, options));
    try {
      const bus = options.driver === "virtio-scsi" ? undefined : await this.#takePort(deviceId(disk.id));
      await this.#qmp.execute("device_add", diskDevice(disk, options, this.#options.machineType, bus));
    } catch (error) {
      this.#freePort(deviceId(disk.id));
      await this.#qmp.execute("blockdev-del", { "node-name": disk.id });
      throw error;
    }
    return { serial: disk.id };
  }

  async removeDisk(id: string): Promise<void> {
    await this.#unplug(deviceId(id));
    await this.#qmp.execute("blockdev-del", { "node-name": id });
  }

  async resizeDisk({ id }: Pick<Disk, "id">, bytes: number): Promise<void> {
    await this.#qmp.execute("block_resize", { "node-name": id, size: bytes });
  }

  async addNic({ id, tap, mac, queues, vhost }: Nic): Promise<void> {
    this.#checkHotplug("network devices");
    const many = queues > 1 ? { queues } : {};
    await this.#qmp.execute("netdev_add", {
      type: "tap",
      id,
      ifname: tap,
      script: "no",
      downscript: "no",
      vhost,
      ...many,
    });
    try {
      const bus = await this.#takePort(deviceId(id));
      await this.#qmp.execute("device_add", {
        driver: "virtio-net-pci",
        id: deviceId(id),
        netdev: id,
        mac,
        bus,
        romfile: "",
        ...(queues > 1 && { mq: true, vectors: 2 * queues + 2 }),
      });
    } catch (error) {
      this.#freePort(deviceId(id));
      await this.#qmp.execute("netdev_del", { id });
      throw error;
    }
  }

  async removeNic(id: string): Promise<void> {
    await this.#unplug(deviceId(id));
    await this.#qmp.execute("netdev_del", { id });
  }

  async addDevice({ id, address }: VfioDevice): Promise<void> {
    this.#checkHotplug("VFIO devices");
    const bus = await this.#takePort(deviceId(id));
    try {
      await this.#qmp.execute("device_add", { driver: "vfio-pci", host: address, id: deviceId(id), bus });
    } catch (error) {
      this.#freePort(deviceId(id));
      throw error;
    }
  }

  async removeDevice(id: string): Promise<void> {
    await this.#unplug(deviceId(id));
  }

  /** A share has no state that a copy could read: it comes when that is done. */
  async #addShare(share: Share): Promise<void> {
    const { chardev, device } = shareDevices(share);
    await this.#qmp.execute("chardev-add", chardev);
    await this.#qmp.execute("device_add", { ...device, bus: await this.#takePort(deviceId(`share-${share.tag}`)) });
  }

  async vcpus(): Promise<number> {
    return (await cpuSlots(this.#qmp)).filter(({ device }) => device !== undefined).length;
  }

  async setVcpus(count: number): Promise<number> {
    this.#checkHotplug("processors");
    const slots = await cpuSlots(this.#qmp);
    const present = slots.filter(({ device }) => device !== undefined).length;
    const free = slots.filter(({ device }) => device === undefined).toReversed();
    if (count > slots.length)
      throw new VmError(
        "Unsupported",
        `${count} processors: the machine was started for ${slots.length} (default_maxvcpus)`,
      );
    for (let index = present; index < count; index++) {
      const slot = free[index - present];
      if (slot) await this.#qmp.execute("device_add", { driver: slot.type, id: `cpu-${index}`, ...slot.properties });
    }
    const plugged = slots
      .filter(({ device }) => device?.startsWith("cpu-") === true)
      .sort((a, b) => cpuNumber(b.device) - cpuNumber(a.device));
    // Without KVM, QEMU 7.2 ends when memory changes after a processor has gone.
    const surplus = this.#options.accelerator === "kvm" ? Math.max(0, present - count) : 0;
    for (const slot of plugged.slice(0, surplus))
      if (slot.device !== undefined) await removeCpu(this.#qmp, slot.device);
    return await this.vcpus();
  }

  async setMemory(mib: number): Promise<number> {
    this.#checkHotplug("memory");
    const wanted = mib * (1 << 20);
    const { base, present } = await memoryOf(this.#qmp);
    // The balloon counts DIMMs, and not what virtio-mem has.
    const { virtioMem } = this.#machine.memory;
    await shrinkBalloon(this.#qmp, Math.min(wanted, virtioMem ? base : present));
    if (virtioMem) await resizeVirtioMem(this.#qmp, wanted - base);
    else if (wanted > present) await growMemory(this.#qmp, wanted - present);
    return Math.round((await memoryOf(this.#qmp)).present / (1 << 20));
  }

  async memoryBytes(): Promise<number> {
    return (await memoryOf(this.#qmp)).present;
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

  #checkHotplug(what: string): void {
    if (this.#options.machineType === "microvm")
      throw new VmError("Unsupported", `machine_type microvm takes no ${what} while it runs; use q35 or pc`);
  }

  /** Which is free is asked of QEMU: another berthd may have plugged before this one was started. */
  async #takePort(device: string): Promise<string> {
    if (this.#options.machineType === "pc") return "bridge0";
    for (let index = 0; index < hotplugPorts(this.#options); index++) {
      if (this.#ports.has(index) || (await this.#isTaken(rootPort(index)))) continue;
      this.#ports.set(index, device);
      return rootPort(index);
    }
    throw new VmError(
      "Unsupported",
      "every port for hotplugged devices is taken; raise default_bridges or pcie_root_port",
    );
  }

  async #isTaken(port: string): Promise<boolean> {
    const buses = await this.#qmp.execute<readonly { readonly devices: readonly PciDevice[] }[]>("query-pci");
    const bridge = buses.flatMap(({ devices }) => devices).find(({ qdev_id: id }) => id === port);
    return (bridge?.pci_bridge?.devices ?? []).length > 0;
  }

  #freePort(device: string): void {
    for (const [index, holder] of this.#ports) if (holder === device) this.#ports.delete(index);
  }

  async #unplug(device: string): Promise<void> {
    const gone = this.#qmp.event(
      ({ event, data }) => event === "DEVICE_DELETED" && data["device"] === device,
      `unplug ${device}`,
      UNPLUG_MS,
    );
    gone.catch(() => {});
    await this.#qmp.execute("device_del", { id: device });
    await gone;
    this.#freePort(device);
  }
}

interface PciDevice {
  readonly qdev_id: string;
  readonly pci_bridge?: { readonly devices?: readonly unknown[] };
}

const cpuNumber = (id: string | undefined): number => Number(id?.slice("cpu-".length) ?? 0);
