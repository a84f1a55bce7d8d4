/** Devices of the host's, with a sysfs of the test's own: which groups can be handed over, and how machines are told. */
import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, test } from "node:test";
import type { oci } from "@berth/spec";
import { settingsOf, type VmSettings } from "../src/configuration/settings.ts";
import type { Capabilities, Machine, Vm } from "../src/hypervisor/machine.ts";
import { vfioDevices, vfioGroupOf } from "../src/hypervisor/vfio.ts";
import { coldPlugged, plugDevices, unplugDevices } from "../src/sandbox/devices.ts";

let sysfs: string;
beforeEach(() => {
  sysfs = mkdtempSync(join(tmpdir(), "berth-vfio-"));
  device("12", "0000:01:00.0", "0x030200", "vfio-pci");
  device("12", "0000:01:00.1", "0x040300", "vfio-pci");
  device("12", "0000:00:01.0", "0x060400", "pcieport");
  device("13", "0000:02:00.0", "0x020000", "mlx5_core");
  device("14", "0000:03:00.0", "0x010802", undefined);
});
afterEach(() => rmSync(sysfs, { recursive: true }));

function device(group: string, address: string, type: string, driver: string | undefined): void {
  const path = join(sysfs, "bus/pci/devices", address);
  mkdirSync(path, { recursive: true });
  writeFileSync(join(path, "class"), `${type}\n`);
  if (driver !== undefined) symlinkSync(`../../drivers/${driver}`, join(path, "driver"));
  mkdirSync(join(sysfs, "kernel/iommu_groups", group, "devices"), { recursive: true });
  symlinkSync(path, join(sysfs, "kernel/iommu_groups", group, "devices", address));
}

test("a group is handed over whole, bridges left where they are", async () => {
  assert.deepEqual(await vfioDevices("12", sysfs), [
    { id: "vfio12-0", address: "0000:01:00.0", path: `${sysfs}/bus/pci/devices/0000:01:00.0` },
    { id: "vfio12-1", address: "0000:01:00.1", path: `${sysfs}/bus/pci/devices/0000:01:00.1` },
  ]);
  assert.equal(vfioGroupOf("/dev/vfio/12"), "12");
  assert.equal(vfioGroupOf("/dev/vfio/vfio"), undefined);
});

test("a group that is not viable, or not there, is refused by name", async () => {
  await assert.rejects(vfioDevices("13", sysfs), {
    code: "Unsupported",
    message: "/dev/vfio/13 is not viable: 0000:02:00.0 is mlx5_core's; bind every device of the group to vfio-pci",
  });
  await assert.rejects(vfioDevices("14", sysfs), /0000:03:00\.0 has no driver/);
  await assert.rejects(vfioDevices("15", sysfs), /\/dev\/vfio\/15: no such IOMMU group; is the IOMMU on/);
});

/** A machine that only takes devices. */
class Taker {
  readonly calls: string[] = [];
  readonly settings: VmSettings;
  readonly capabilities: Capabilities;
  readonly machine: Machine;
  readonly vm: Vm;

  constructor(own: Record<string, unknown>, vfio = true, devices: Machine["devices"] = []) {
    this.settings = settingsOf({ hypervisor: { qemu: own } });
    this.capabilities = { vfio } as Capabilities;
    this.machine = { devices } as unknown as Machine;
    this.vm = {
      addDevice: ({ id }) => Promise.resolve(void this.calls.push(`add ${id}`)),
      removeDevice: (id) => Promise.resolve(void this.calls.push(`remove ${id}`)),
    } as Vm;
  }
}

const spec: oci.Spec = {
  ociVersion: "1.2.0",
  linux: { devices: ["/dev/vfio/12", "/dev/fuse"].map((path) => ({ path, type: "c", major: 1, minor: 1 })) },
};

test("a container's group is plugged while the machine runs, and given back with it", async () => {
  const machine = new Taker({ hot_plug_vfio: "root-port" });
  const guest = await plugDevices(machine, spec, sysfs);
  assert.deepEqual(
    guest.linux?.devices?.map(({ path }) => path),
    ["/dev/fuse"],
  );
  await unplugDevices(machine, ["/dev/vfio/12"], sysfs);
  assert.deepEqual(machine.calls, ["add vfio12-0", "add vfio12-1", "remove vfio12-0", "remove vfio12-1"]);
  assert.deepEqual(
    (await plugDevices(new Taker({ hotplug_vfio_on_root_bus: true }), spec, sysfs)).linux?.devices?.length,
    1,
  );
});

test("where the configuration or the hypervisor has none, it is refused by name", async () => {
  await assert.rejects(plugDevices(new Taker({}), spec, sysfs), {
    code: "Unsupported",
    message: '/dev/vfio/12: hot_plug_vfio is "no-port"; set "root-port"',
  });
  await assert.rejects(
    plugDevices(new Taker({ hot_plug_vfio: "root-port" }, false), spec, sysfs),
    /\/dev\/vfio\/12: \[hypervisor\.qemu\] takes no VFIO devices/,
  );
  for (const [own, words] of [
    [{ hot_plug_vfio: "bridge-port" }, /hot_plug_vfio: machine_type q35 has no bridge ports/],
    [{ machine_type: "pc", cold_plug_vfio: "root-port" }, /cold_plug_vfio: machine_type pc has no root ports/],
    [{ hot_plug_vfio: "switch-port" }, /hot_plug_vfio: "switch-port" is none of no-port, root-port, bridge-port/],
  ] as const)
    assert.throws(() => settingsOf({ hypervisor: { qemu: own } }), words);
});

test("what a pod's annotations name is there from the start, and not plugged again", async () => {
  const nodes = ["/dev/vfio/12", "/dev/vfio/vfio"];
  assert.deepEqual(await coldPlugged(settingsOf({}), nodes, sysfs), []);
  const settings = settingsOf({ hypervisor: { qemu: { cold_plug_vfio: "root-port" } } });
  const devices = await coldPlugged(settings, nodes, sysfs);
  assert.deepEqual(
    devices.map(({ address }) => address),
    ["0000:01:00.0", "0000:01:00.1"],
  );
  const machine = new Taker({ cold_plug_vfio: "root-port" }, true, devices);
  await plugDevices(machine, spec, sysfs);
  await unplugDevices(machine, ["/dev/vfio/12"], sysfs);
  assert.deepEqual(machine.calls, []);
});
