/** What every hypervisor must do for a machine that has been started, whichever it is; what one cannot it refuses by name. */
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import type { VmErrorCode } from "../errors.ts";
import type { Capabilities, Disk, Machine, Nic, Vm } from "../hypervisor/machine.ts";

export interface Started {
  readonly machine: Machine;
  readonly vm: Vm;
  readonly capabilities: Capabilities;
  /** As another berthd would, when this one has closed its connection. */
  readonly again: () => Promise<Vm>;
  /** A new image, or one that was asked for by this name before. */
  readonly disk: (id: string) => Disk;
  /** A network device with a tap of its own. */
  readonly nic: Nic;
  /** Ends the hypervisor from outside. */
  readonly kill: () => Promise<void>;
  readonly close: () => Promise<void>;
}

export interface Subject {
  readonly name: string;
  readonly skip?: string | undefined;
  readonly start: () => Promise<Started>;
}

const MIB = 1 << 20;
/** MiB: a step that all can go by. */
const STEP = 128;

const refused = (code: VmErrorCode, words: RegExp) => (error: unknown) => {
  assert.ok(error instanceof Error);
  assert.equal((error as { code?: unknown }).code, code, error.message);
  assert.match(error.message, words);
  return true;
};

/** Registers its tests. They are of one machine, one after the other. */
export function hypervisorContract({ name, skip, start }: Subject): void {
  describe(`${name}: the contract of hypervisors`, { skip: skip ?? false, timeout: 900_000 }, () => {
    let started: Started;
    let vm: Vm;
    before(async () => {
      started = await start();
      vm = started.vm;
    });
    after(async () => {
      vm?.close();
      await started?.close();
    });

    test("says which it is, and has what it was started with", async () => {
      const { machine } = started;
      assert.match(vm.version, /^\d+\.\d+/);
      assert.equal(await vm.vcpus(), machine.vcpus);
      assert.equal(await vm.memoryBytes(), machine.memory.mib * MIB);
    });

    test("stops for a while, and goes on", async () => {
      await started.vm.pause();
      await started.vm.resume();
      await started.vm.pause();
      await started.vm.resume();
    });

    test("takes disks and gives them back", async () => {
      const { machine, disk } = started;
      const options = machine.diskOptions;
      const place = await vm.addDisk(disk("one"), options);
      if ("serial" in place) assert.equal(place.serial, "one");
      else assert.match(place.device, /^vd[a-z]$/);
      await assert.rejects(vm.addDisk(disk("one"), options), refused("Hypervisor", /./));
      const other = await vm.addDisk(disk("two"), options);
      assert.notDeepEqual(other, place);
      await vm.removeDisk("one");
      assert.deepEqual(await vm.addDisk(disk("one"), options), place);
      await assert.rejects(vm.removeDisk("none"), refused("Hypervisor", /./));
      await vm.removeDisk("one");
      await vm.removeDisk("two");
    });

    test("has a disk grow, or says that it does not", async () => {
      const { machine, disk, capabilities } = started;
      const grows = disk("grows");
      await vm.addDisk(grows, machine.diskOptions);
      if (capabilities.resizeDisks) {
        await vm.resizeDisk(grows, 2 * MIB);
        await assert.rejects(vm.resizeDisk(disk("none"), 2 * MIB), refused("Hypervisor", /./));
      } else await assert.rejects(vm.resizeDisk(grows, 2 * MIB), refused("Unsupported", /size/));
      await vm.removeDisk(grows.id);
    });

    test("takes network devices, or says that it does not", async () => {
      const { nic, capabilities } = started;
      if (!capabilities.hotplugNics)
        return await assert.rejects(vm.addNic(nic), refused("Unsupported", /network device/));
      await vm.addNic(nic);
      await assert.rejects(vm.addNic(nic), refused("Hypervisor", /./));
      await vm.removeNic(nic.id);
      await vm.addNic(nic);
      await vm.removeNic(nic.id);
    });

    test("takes no device that is not there, or none at all", async () => {
      const device = { id: "vfio1-0", address: "ffff:ff:1f.7", path: "/sys/bus/pci/devices/ffff:ff:1f.7" };
      const { vfio } = started.capabilities;
      const words = vfio ? /./ : /VFIO devices/;
      await assert.rejects(vm.addDevice(device), refused(vfio ? "Hypervisor" : "Unsupported", words));
      await assert.rejects(vm.removeDevice(device.id), refused(vfio ? "Hypervisor" : "Unsupported", words));
    });

    test("takes processors up to what it was started for, or says that it does not", async () => {
      const { machine, capabilities } = started;
      assert.equal(await vm.setVcpus(machine.vcpus), machine.vcpus);
      await assert.rejects(vm.setVcpus(4096), refused("Unsupported", /^4096 processors: /));
      if (!capabilities.resizeVcpus || machine.maxVcpus === machine.vcpus) return;
      assert.equal(await vm.setVcpus(machine.vcpus + 1), machine.vcpus + 1);
      assert.equal(await vm.vcpus(), machine.vcpus + 1);
      // Not everyone takes one back.
      assert.ok((await vm.setVcpus(machine.vcpus)) <= machine.vcpus + 1);
    });

    test("takes memory, or says that it does not; and can be asked for some back", async () => {
      const { machine, capabilities } = started;
      const { mib } = machine.memory;
      if (capabilities.growMemory) {
        assert.equal(await vm.setMemory(mib + STEP), mib + STEP);
        assert.equal(await vm.memoryBytes(), (mib + STEP) * MIB);
      } else await assert.rejects(vm.setMemory(mib + STEP), refused("Unsupported", /MiB: .* grow/));
      assert.ok((await vm.setMemory(mib - 8)) >= mib - 8);
      await vm.setMemory(mib);
    });

    test("is found again, with its disks", async () => {
      const { machine, disk } = started;
      const options = machine.diskOptions;
      const [version, vcpus] = [vm.version, await vm.vcpus()];
      const place = await vm.addDisk(disk("kept"), options);
      vm.close();
      vm = await started.again();
      assert.equal(vm.version, version);
      assert.equal(await vm.vcpus(), vcpus);
      assert.notDeepEqual(await vm.addDisk(disk("later"), options), place);
      await vm.removeDisk("later");
      await vm.removeDisk("kept");
    });

    test("its end is told, and whoever asks later is told so", async () => {
      try {
        await vm.stop();
      } catch (error) {
        refused("Unsupported", /no order to end/)(error);
        await started.kill();
      }
      assert.notEqual(await vm.ended, "");
      await assert.rejects(vm.pause(), refused("Hypervisor", /is gone/));
    });
  });
}
