/** The drivers of Cloud Hypervisor, Firecracker and StratoVirt, each with a double that is made from its published description. */
import assert from "node:assert/strict";
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, test } from "node:test";
import { reachThrough } from "@berth/kernel";
import type { HypervisorName } from "../src/configuration/driver-keys.ts";
import { settingsOf } from "../src/configuration/settings.ts";
import { machineShape } from "../src/hypervisor/choose.ts";
import { hypervisorOf } from "../src/hypervisor/drivers.ts";
import { type Hypervisor, guestSocket, type Machine, type Nic, type Program } from "../src/hypervisor/machine.ts";
import { nicRates } from "../src/hypervisor/rates.ts";
import { hypervisorContract, type Started } from "../src/testing/contract.ts";
import { startClh } from "./doubles/clh.ts";
import type { Double } from "./doubles/double.ts";
import { startFirecracker } from "./doubles/firecracker.ts";
import { Sockets } from "./doubles/double.ts";
import { startStratoVirt } from "./doubles/stratovirt.ts";

type Other = Exclude<HypervisorName, "qemu">;

const DOUBLES: Readonly<Record<Other, (program: Program, machine: Machine) => Promise<Double>>> = {
  clh: startClh,
  firecracker: startFirecracker,
  stratovirt: startStratoVirt,
};
const NAMES = Object.keys(DOUBLES) as Other[];

/** A hypervisor's driver and a machine, in a directory of their own. */
class Bench {
  readonly dir = mkdtempSync(join(tmpdir(), "berth-hypervisors-"));
  readonly hypervisor: Hypervisor;
  readonly machine: Machine;
  readonly nic: Nic;

  constructor(name: Other, own: Record<string, unknown> = {}) {
    for (const file of ["vmm", "vmlinux", "initrd"]) writeFileSync(join(this.dir, file), "\u007fELF");
    const settings = settingsOf({
      hypervisor: {
        [name]: {
          path: join(this.dir, "vmm"),
          default_memory: 256,
          ...(name === "clh" && { default_maxmemory: 1024, default_maxvcpus: 2 }),
          ...own,
        },
      },
    });
    this.hypervisor = hypervisorOf(settings, "kvm");
    const { network_queues: queues } = settings.hypervisor;
    this.nic = { id: "net0", tap: "tap0", mac: "02:00:00:00:00:01", queues, vhost: false, ...nicRates(settings) };
    const files = { kernel: join(this.dir, "vmlinux"), initrd: join(this.dir, "initrd"), image: undefined };
    const { shared_fs: shared, virtio_fs_queue_size: queueSize } = settings.hypervisor;
    this.machine = {
      ...machineShape(settings, { ...files, image: (own["image"] as string | undefined) ?? undefined }),
      id: "0123456789abcdef0123",
      directory: this.dir,
      shares:
        shared === "virtio-fs" ? [{ tag: "share", socket: join(this.dir, "fs.sock"), queueSize, cacheSize: 0 }] : [],
      nics: [this.nic],
      devices: [],
      disks: [this.disk("data")],
    };
  }

  disk(id: string): { id: string; path: string; readonly: boolean } {
    const path = join(this.dir, `${id}.img`);
    if (!existsSync(path)) writeFileSync(path, Buffer.alloc(1 << 20));
    return { id, path, readonly: false };
  }

  close(): void {
    rmSync(this.dir, { recursive: true });
  }
}

for (const name of NAMES)
  hypervisorContract({
    name,
    start: async (): Promise<Started> => {
      const bench = new Bench(name);
      const { hypervisor, machine } = bench;
      const double = await DOUBLES[name](hypervisor.program(machine), machine);
      const vm = await hypervisor.connect(machine);
      await vm.boot();
      return {
        machine,
        vm,
        capabilities: hypervisor.capabilities,
        again: () => hypervisor.connect(machine),
        disk: (id) => bench.disk(id),
        nic: { ...bench.nic, id: "net1", tap: "tap1", mac: "02:00:00:00:00:02" },
        kill: () => double.kill(),
        close: async () => {
          vm.close();
          await double[Symbol.asyncDispose]();
          bench.close();
        },
      };
    },
  });

for (const name of NAMES)
  describe(`${name} and its double`, () => {
    let bench: Bench;
    let double: Double;
    beforeEach(async () => {
      bench = new Bench(name);
      double = await DOUBLES[name](bench.hypervisor.program(bench.machine), bench.machine);
    });
    afterEach(async () => {
      await double[Symbol.asyncDispose]();
      bench.close();
    });

    test("the machine is what was asked for", async () => {
      const { machine, hypervisor } = bench;
      const vm = await hypervisor.connect(machine);
      await vm.boot();
      assert.equal(double.state, "running");
      const channel = hypervisor.channel(machine);
      assert.deepEqual(double.told(), {
        vcpus: machine.vcpus,
        mib: 256,
        kernel: machine.kernel,
        initrd: machine.initrd,
        commandLine: machine.commandLine.join(" "),
        disks: machine.disks.map(({ path }) => path),
        nics: [{ tap: "tap0", mac: "02:00:00:00:00:01" }],
        shares: hypervisor.capabilities.sharedFiles ? ["share"] : [],
        vsock: channel.by === "hypervisor" ? guestSocket(machine.directory) : undefined,
      });
      assert.match(machine.commandLine.join(" "), /(^| )berth\.channel=vsock:1024( |$)/);
      await vm.pause();
      assert.equal(double.state, "paused");
      await vm.resume();
      assert.equal(double.state, "running");
      vm.close();
    });

    test("what it refuses is told in its words", async () => {
      const { machine, hypervisor } = bench;
      const vm = await hypervisor.connect(machine);
      if (name !== "stratovirt") {
        double.refuseNext("no memory left");
        await assert.rejects(vm.boot(), /: .*no memory left$/);
      } else {
        double.refuseNext("no disk like this");
        await assert.rejects(vm.addDisk(bench.disk("one"), machine.diskOptions), /blockdev-add: no disk like this$/);
      }
      vm.close();
    });

    test("a machine is not started twice, nor stopped twice", async () => {
      const { machine, hypervisor } = bench;
      const vm = await hypervisor.connect(machine);
      await vm.boot();
      if (name !== "stratovirt") await assert.rejects(vm.boot(), /already created|not supported after starting/);
      await vm.pause();
      if (name !== "firecracker") await assert.rejects(vm.pause(), /state trans/);
      vm.close();
    });

    test("more disks than it has room for are refused by name", async (t) => {
      const { machine, hypervisor } = bench;
      if (name === "clh") return t.skip("it has as many as PCI has");
      const vm = await hypervisor.connect(machine);
      await vm.boot();
      const room = name === "firecracker" ? 8 : 3;
      const places = [];
      for (let index = 0; index < room; index++)
        places.push(await vm.addDisk(bench.disk(`d${index}`), machine.diskOptions));
      assert.deepEqual(places[0], { device: "vdb" });
      await assert.rejects(vm.addDisk(bench.disk("more"), machine.diskOptions), {
        code: "Unsupported",
        message: /taken$/,
      });
      await vm.removeDisk("d1");
      assert.deepEqual(await vm.addDisk(bench.disk("more"), machine.diskOptions), { device: "vdc" });
      vm.close();
    });
  });

test("a hypervisor that talks nonsense, or ends, fails the request", async () => {
  const bench = new Bench("firecracker");
  await using sockets = new Sockets();
  let answer: (() => string | undefined) | undefined;
  await sockets.listen(
    createServer((socket) =>
      socket.on("data", () => {
        const said = answer?.();
        if (said === undefined) socket.destroy();
        else socket.end(said);
      }),
    ),
    join(bench.dir, "control.sock"),
  );
  const connect = (): Promise<unknown> => bench.hypervisor.connect(bench.machine);
  answer = () => "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n<ml>";
  await assert.rejects(connect(), /GET \/: the hypervisor answered what is not JSON: <ml>/);
  answer = () => "garbage\r\n\r\n";
  await assert.rejects(connect(), { code: "Hypervisor", message: /^GET \/: / });
  answer = () => undefined;
  await assert.rejects(connect(), { code: "Hypervisor", message: /^GET \/: / });
  answer = () => 'HTTP/1.1 400 Bad Request\r\nContent-Length: 25\r\n\r\n{"fault_message":"no.\\n"}';
  await assert.rejects(connect(), { message: "GET /: no." });
  bench.close();
});

test("a guest is reached by hybrid vsock", async () => {
  const bench = new Bench("clh");
  await using sockets = new Sockets();
  await sockets.vsock(guestSocket(bench.dir), (socket) =>
    socket.on("data", (line: Buffer) => {
      if (line.toString() === "PATH tcp:80\n") socket.write("OK\nhello");
    }),
  );
  const socket = await reachThrough(guestSocket(bench.dir), { timeoutMs: 10_000 })("tcp:80");
  const { promise, resolve } = Promise.withResolvers<string>();
  socket.once("data", (data: Buffer) => resolve(data.toString()));
  socket.resume();
  assert.equal(await promise, "hello");
  socket.destroy();
  bench.close();
});

test("a device of the host's is Cloud Hypervisor's to have and to give back", async () => {
  const bench = new Bench("clh");
  const device = { id: "vfio1-0", address: "0000:01:00.0", path: bench.dir };
  const machine = { ...bench.machine, devices: [{ ...device, id: "vfio0-0" }] };
  await using double = await startClh(bench.hypervisor.program(machine), machine);
  const vm = await bench.hypervisor.connect(machine);
  await vm.boot();
  assert.equal(double.state, "running");
  await vm.addDevice(device);
  await assert.rejects(vm.addDevice(device), /not unique/);
  await vm.removeDevice(device.id);
  await vm.removeDevice("vfio0-0");
  vm.close();
  bench.close();
});

test("Firecracker is given an uncompressed kernel alone", async () => {
  const bench = new Bench("firecracker");
  await using double = await startFirecracker(bench.hypervisor.program(bench.machine), bench.machine);
  writeFileSync(bench.machine.kernel, "MZ");
  const vm = await bench.hypervisor.connect(bench.machine);
  await assert.rejects(vm.boot(), /kernel: .*vmlinux is compressed, and Firecracker boots an uncompressed one/);
  assert.equal(double.state, "none");
  vm.close();
  bench.close();
});

test("what one cannot is refused by name before it is started", () => {
  const cases: readonly (readonly [Other, Partial<Machine>, RegExp])[] = [
    ["firecracker", { vcpus: 33 }, /default_vcpus: Firecracker's machines have 32 processors at most/],
    [
      "firecracker",
      { shares: [{ tag: "s", socket: "/s", queueSize: 1, cacheSize: 0 }] },
      /Firecracker has no virtio-fs/,
    ],
    [
      "clh",
      { shares: [{ tag: "s", socket: "/s", queueSize: 1, cacheSize: 64 }] },
      /Cloud Hypervisor has no DAX window/,
    ],
    [
      "stratovirt",
      { disks: ["a", "b", "c", "d", "e"].map((id) => ({ id, path: `/${id}`, readonly: true })) },
      /5 block devices: StratoVirt's microvm has 4 slots/,
    ],
    [
      "stratovirt",
      { kernel: "/k", disks: [{ id: "a", path: "/a,b", readonly: true }] },
      /StratoVirt takes no path with a comma/,
    ],
  ];
  for (const [name, own, words] of cases) {
    const bench = new Bench(name);
    assert.throws(() => bench.hypervisor.program({ ...bench.machine, ...own }), words);
    bench.close();
  }
});
