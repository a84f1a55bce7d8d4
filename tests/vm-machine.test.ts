/** Machines by themselves, each type of QEMU's that there is: boot, what is plugged and unplugged while they run, and their end. */
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test, type TestContext } from "node:test";
import { type Hand, O, probeHost, startHand } from "@berth/kernel";
import {
  findMachine,
  hypervisorOf,
  type PodMachine,
  removeMachine,
  settingsOf,
  startMachine,
  type VmHost,
} from "@berth/vm";
import { hypervisorContract } from "@berth/vm/testing";
import { checkout } from "./support/daemon.ts";
import { makeGuestImage } from "../bench/lib/guest-image.ts";
import { vmProblem } from "./support/vm.ts";

describe("machines", { skip: vmProblem() ?? false, timeout: 900_000 }, () => {
  let dir: string;
  let vm: VmHost;
  before(async () => {
    dir = mkdtempSync(join(tmpdir(), "berth-machine-"));
    await makeGuestImage(join(dir, "image"));
    const hand = await startHand({ bosun: `${checkout}/.build/native/bosun`, state: join(dir, "state") });
    vm = { hand, host: await probeHost(hand), machines: join(dir, "m"), image: join(dir, "image"), log: () => {} };
  });
  after(async () => {
    await vm?.hand.close();
    rmSync(dir, { recursive: true, force: true });
  });

  const start = (id: string, own: Record<string, unknown>): Promise<PodMachine> =>
    startMachine(vm, {
      id,
      settings: settingsOf({ hypervisor: { qemu: { default_memory: 192, default_maxmemory: 1024, ...own } } }),
      netns: undefined,
      cgroup: `/berth-test-machine-${process.pid}`,
      hostname: "guest",
      shmSize: 1 << 20,
      sysctls: { "kernel.domainname": "test" },
    });

  async function boot(t: TestContext, id: string, own: Record<string, unknown>): Promise<PodMachine> {
    t.after(() => removeMachine(vm, id));
    const machine = await start(id, own);
    t.after(() => machine.close());
    return machine;
  }

  /** What the guest says of itself. */
  const read = async (hand: Hand, root: string, path: string): Promise<string> => {
    const outputs = await hand.run({
      orders: [
        { order: "open", args: { slot: 0, path: root, flags: BigInt(O.PATH | O.DIRECTORY) } },
        { order: "read_in", args: { root: 0, path, max: 1 << 16 } },
      ],
    });
    const text = outputs.get(1);
    return text === undefined ? "" : Buffer.from(text).toString();
  };

  test("q35: processors, memory and disks while it runs, and its end", async (t) => {
    const machine = await boot(t, "q35", { machine_type: "q35", default_vcpus: 1 });
    const { hand } = machine.guest;
    assert.equal(await read(hand, "/proc", "/sys/kernel/domainname"), "test\n");
    assert.equal(await machine.vm.memoryBytes(), 192 << 20);

    assert.equal(await machine.vm.setMemory(320), 320);
    await assert.rejects(machine.vm.setVcpus(4096), /the machine was started for \d+ \(default_maxvcpus\)/);
    const image = join(dir, "disk");
    writeFileSync(image, Buffer.alloc(1 << 20, "disk"));
    const options = machine.machine.diskOptions;
    await machine.vm.addDisk({ id: "one", path: image, readonly: true }, options);
    await eventually("the guest has the disk", async () => (await read(hand, "/sys", "/block/vda/serial")) === "one");
    assert.equal(await read(hand, "/sys", "/block/vda/ro"), "1\n");
    await assert.rejects(machine.vm.addDisk({ id: "one", path: image, readonly: true }, options), /blockdev-add: /);
    await machine.vm.removeDisk("one");
    await eventually("the disk is gone", async () => (await read(hand, "/sys", "/block/vda/serial")) === "");

    await machine.vm.stop();
    assert.match(await machine.ended, /the hypervisor ended with status 0/);
    assert.equal(await findMachine(vm, "q35"), undefined);
  });

  for (const machineType of ["q35", "pc"])
    hypervisorContract({
      name: `QEMU, ${machineType}`,
      start: async () => {
        const id = `contract-${machineType}`;
        const own = { machine_type: machineType, default_vcpus: 1, default_maxvcpus: 2 };
        const machine = await start(id, own);
        const { capabilities, machine: started } = machine;
        const { settings } = machine;
        return {
          machine: started,
          vm: machine.vm,
          capabilities,
          again: async () => await hypervisorOf(settings, "tcg").connect(started),
          disk: (name) => {
            const path = join(dir, `${id}-${name}`);
            writeFileSync(path, Buffer.alloc(1 << 20, name));
            return { id: name, path, readonly: false };
          },
          nic: undefined,
          kill: async () => await removeMachine(vm, id),
          close: async () => {
            await machine.close();
            await removeMachine(vm, id);
          },
        };
      },
    });

  test("pc boots the same guest, and takes memory while it runs", async (t) => {
    const machine = await boot(t, "pc", { machine_type: "pc" });
    assert.match(await read(machine.guest.hand, "/proc", "/version"), /^Linux version /);
    assert.equal(await machine.vm.setMemory(320), 320);
    await machine.vm.stop();
    assert.match(await machine.ended, /status 0/);
  });

  test("a guest that does not come up is told with where its console is", async (t) => {
    // Told to be berth's own: any other would be one of Kata's.
    writeFileSync(join(dir, "image.json"), "{}");
    writeFileSync(join(dir, "no-initrd"), "");
    await assert.rejects(
      boot(t, "dead", { initrd: join(dir, "no-initrd") }),
      /the guest did not answer|hypervisor ended with status/,
    );
    assert.match(readFileSync(join(dir, "m/dead/console.log"), "utf8"), /Kernel panic/);
  });
});

async function eventually(what: string, isSo: () => Promise<boolean>): Promise<void> {
  for (const end = Date.now() + 60_000; !(await isSo()); await new Promise((resolve) => setTimeout(resolve, 20)))
    if (Date.now() > end) throw new Error(`not within a minute: ${what}`);
}
