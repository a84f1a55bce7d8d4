/** Machines by themselves, each type of QEMU's that there is: boot, what is plugged and unplugged while they run, and their end. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { chmodSync, constants, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test, type TestContext } from "node:test";
import { type Hand, O, probeHost, readRecord, startHand } from "@berth/kernel";
import {
  findMachine,
  hypervisorOf,
  type Limits,
  type PodMachine,
  refreshNetwork,
  removeMachine,
  settingsOf,
  sizeMachine,
  startMachine,
  UNLIMITED,
  type VmHost,
} from "@berth/vm";
import {
  addressesRequest,
  linksRequest,
  parseAddresses,
  parseLinks,
  parseRoutes,
  routesRequest,
} from "@berth/kernel/netlink";
import { hypervisorContract } from "@berth/vm/testing";
import { checkout } from "./support/daemon.ts";
import { makeGuestImage } from "../bench/lib/guest-image.ts";
import { vmProblem } from "./support/vm.ts";

describe("machines", { skip: vmProblem() ?? false, timeout: 900_000 }, () => {
  let dir: string;
  let vm: VmHost;
  before(async () => {
    dir = mkdtempSync(join(tmpdir(), "berth-machine-"));
    // A hypervisor may be anybody.
    chmodSync(dir, 0o711);
    mkdirSync(join(dir, "m"), { mode: 0o711 });
    await makeGuestImage(join(dir, "image"));
    const hand = await startHand({ bosun: `${checkout}/.build/native/bosun`, state: join(dir, "state") });
    vm = { hand, host: await probeHost(hand), machines: join(dir, "m"), image: join(dir, "image"), log: () => {} };
  });
  after(async () => {
    await vm?.hand.close();
    rmSync(dir, { recursive: true, force: true });
  });

  const start = (
    id: string,
    own: Record<string, unknown>,
    runtime: Record<string, unknown> = {},
    { limits, netns }: { readonly limits?: Limits; readonly netns?: string } = {},
  ): Promise<PodMachine> =>
    startMachine(vm, {
      limits,
      netns,
      id,
      settings: settingsOf({ hypervisor: { qemu: { default_memory: 192, default_maxmemory: 1024, ...own } }, runtime }),
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

  test("a machine fits its containers: it grows and shrinks", async (t) => {
    const own = { enable_virtio_mem: true, default_maxvcpus: 2 };
    const machine = await boot(t, "fits", own);
    const { hand } = machine.guest;
    const total = async (): Promise<number> =>
      Number(/MemTotal: +(\d+) kB/.exec(await read(hand, "/proc", "/meminfo"))?.[1]) / 1024;
    const processors = async (): Promise<number> =>
      (await read(hand, "/proc", "/cpuinfo")).match(/^processor/gm)?.length ?? 0;
    const before = await total();
    await sizeMachine(machine, [
      { memoryBytes: 200 << 20, cpus: 0.5 },
      { memoryBytes: 56 << 20, cpus: 0.25 },
    ]);
    assert.equal(await machine.vm.memoryBytes(), (192 + 256) << 20);
    await eventually("the guest has more memory", async () => (await total()) >= before + 250);
    assert.equal(await processors(), Math.min(2, machine.maxVcpus));

    await sizeMachine(machine, []);
    await eventually("the guest has less memory", async () => (await total()) < before + 60);
    // Emulated machines keep their processors.
    assert.ok((await machine.vm.vcpus()) <= 2);
  });

  test("what a guest frees is the host's again, at once and by the balloon", async (t) => {
    const machine = await boot(t, "frees", { default_memory: 256, reclaim_guest_freed_memory: true });
    const { hand } = machine.guest;
    const record = await readRecord(join(dir, "m/frees/hypervisor"));
    const held = (): number =>
      Number(/RssShmem:\s+(\d+) kB/.exec(readFileSync(`/proc/${record?.pid}/status`, "utf8"))?.[1]) / 1024;
    const ballast = "/run/ballast";
    await hand.run({
      orders: [
        { order: "mkdir", args: { path: ballast, mode: 0o755, existOk: 0, parents: 0 } },
        { order: "mount", args: { source: "none", target: ballast, fstype: "tmpfs", flags: 0n, data: "size=200m" } },
      ],
    });
    const data = Buffer.alloc(CHUNK, "x");
    for (let index = 0; index < 60; index++)
      await hand.run({
        orders: [
          { order: "open", args: { slot: 0, path: `${ballast}/${index}`, flags: BigInt(O.RDWR | constants.O_CREAT) } },
          { order: "write_slot", args: { slot: 0, data } },
        ],
      });
    const full = held();
    await hand.run({ orders: [{ order: "unmount", args: { path: ballast, flags: 0n } }] });
    await eventually("the host has the memory back", () => Promise.resolve(held() < full - 16));
    const less = held();
    await machine.vm.setMemory(160);
    await eventually("the balloon has taken some", () => Promise.resolve(held() < less - 10));
  });

  test("a machine that is sized at its start has its pod's limits then, and does not grow", async (t) => {
    t.after(() => removeMachine(vm, "static"));
    const limits = { memoryBytes: 100 << 20, cpus: 0.5 };
    const machine = await start("static", {}, { static_sandbox_resource_mgmt: true }, { limits });
    t.after(() => machine.close());
    assert.equal(await machine.vm.memoryBytes(), 292 << 20);
    assert.equal(await machine.vm.vcpus(), Math.min(2, machine.maxVcpus));
    await sizeMachine(machine, [{ memoryBytes: 1 << 30, cpus: 1 }]);
    assert.equal(await machine.vm.memoryBytes(), 292 << 20);
  });

  for (const machineType of ["q35", "pc"])
    hypervisorContract({
      name: `QEMU, ${machineType}`,
      start: async () => {
        const id = `contract-${machineType}`;
        const own = { machine_type: machineType, default_vcpus: 1, default_maxvcpus: 2 };
        const name = `berth-${id}-${process.pid}`;
        execFileSync("ip", ["netns", "add", name]);
        const machine = await start(id, own, {}, { netns: `/run/netns/${name}` });
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
          nic: {
            id: "net9",
            tap: "tap9",
            mac: "02:00:00:00:00:09",
            queues: 1,
            vhost: false,
            rx: UNLIMITED,
            tx: UNLIMITED,
          },
          kill: async () => await removeMachine(vm, id),
          close: async () => {
            await machine.close();
            await removeMachine(vm, id);
            execFileSync("ip", ["netns", "delete", name]);
          },
        };
      },
    });

  test("microvm boots the same guest, whose clock runs as fast as the host's", async (t) => {
    const machine = await boot(t, "microvm", { machine_type: "microvm" });
    const { hand } = machine.guest;
    assert.match(await read(hand, "/proc", "/version"), /^Linux version /);
    const uptime = async (): Promise<number> => Number((await read(hand, "/proc", "/uptime")).split(" ")[0]);
    // Between two looks there passed, here, no less than between the end of one and the begin of the other, and no more than all.
    const look = async (): Promise<{ from: number; there: number; to: number }> => {
      const from = performance.now();
      const there = await uptime();
      return { from, there, to: performance.now() };
    };
    const first = await look();
    await new Promise((resolve) => setTimeout(resolve, 2000));
    const second = await look();
    const passed = (second.there - first.there) * 1000;
    assert.ok(passed > (second.from - first.to) * 0.95 - 20, `${passed} ms`);
    assert.ok(passed < (second.to - first.from) * 1.05 + 20, `${passed} ms`);
    await assert.rejects(machine.vm.setMemory(512), /microvm takes no memory while it runs/);
    await machine.vm.stop();
    assert.match(await machine.ended, /status 0/);
  });

  test("pc boots the same guest, and takes memory while it runs", async (t) => {
    const machine = await boot(t, "pc", { machine_type: "pc" });
    assert.match(await read(machine.guest.hand, "/proc", "/version"), /^Linux version /);
    assert.equal(await machine.vm.setMemory(320), 320);
    await machine.vm.stop();
    assert.match(await machine.ended, /status 0/);
  });

  test("interfaces and routes that come while a machine runs are its guest's; and rates are kept", async (t) => {
    const name = `berth-vm-${process.pid}`;
    const netns = `/run/netns/${name}`;
    const peers = `${name}-peers`;
    const ip = (...words: string[]): string => execFileSync("ip", ["-n", name, ...words], { encoding: "utf8" });
    const add = (link: string, address: string): void => {
      ip("link", "add", link, "type", "veth", "peer", "name", `${link}-peer`);
      ip("link", "set", `${link}-peer`, "netns", peers);
      ip("address", "add", address, "dev", link);
      ip("link", "set", link, "up");
    };
    for (const each of [name, peers]) execFileSync("ip", ["netns", "add", each]);
    t.after(() => [name, peers].forEach((each) => execFileSync("ip", ["netns", "delete", each])));
    add("eth0", "10.77.0.2/24");
    t.after(() => removeMachine(vm, "net"));
    const own = { rx_rate_limiter_max_rate: 8_000_000, tx_rate_limiter_max_rate: 16_000_000 };
    const machine = await start("net", own, {}, { netns });
    t.after(() => machine.close());
    const { hand } = machine.guest;
    const network = async (): Promise<string> => {
      const tell = async (message: Buffer): Promise<Uint8Array> => {
        const outputs = await hand.run({ orders: [{ order: "netlink", args: { messages: [message], tolerate: [] } }] });
        return outputs.get(0) ?? new Uint8Array();
      };
      const links = parseLinks(await tell(linksRequest()));
      const nameOf = (index: number): string => links.find((link) => link.index === index)?.name ?? "";
      const addresses = parseAddresses(await tell(addressesRequest())).map(
        ({ index, address, prefix }) => `${nameOf(index)} ${address}/${prefix}`,
      );
      const routes = parseRoutes(await tell(routesRequest())).map(
        ({ destination, gateway }) => `${destination?.address ?? "default"} by ${gateway ?? "link"}`,
      );
      return [...addresses, ...routes].join("\n");
    };
    assert.match(await network(), /^eth0 10\.77\.0\.2\/24$/m);
    const tc = (device: string): string =>
      execFileSync("tc", ["-n", name, "qdisc", "show", "dev", device, "root"], { encoding: "utf8" });
    assert.match(tc("tap0"), /tbf .*rate 8Mbit/);
    assert.match(tc("eth0"), /tbf .*rate 16Mbit/);

    await refreshNetwork(vm.hand, machine, netns);
    add("later", "10.78.0.2/24");
    ip("route", "add", "10.99.0.0/16", "via", "10.77.0.1");
    await refreshNetwork(vm.hand, machine, netns);
    const now = await network();
    assert.match(now, /^later 10\.78\.0\.2\/24$/m);
    assert.match(now, /^10\.99\.0\.0 by 10\.77\.0\.1$/m);
    assert.match(tc("tap1"), /tbf .*rate 8Mbit/);
    ip("link", "delete", "later");
    await refreshNetwork(vm.hand, machine, netns);
    await eventually("the interface is gone", async () => !/^later /m.test(await network()));
  });

  for (const [model, own] of [
    ["macvtap", {}],
    ["tcfilter", { rootless: true }],
  ] as const)
    test(`a machine by ${model} has its pod's address, ${"rootless" in own ? "and its hypervisor no rights" : "and the pod's interface none"}`, async (t) => {
      const name = `berth-${model}-${process.pid}`;
      const netns = `/run/netns/${name}`;
      const peers = `${name}-peers`;
      const ip = (where: string, ...words: string[]): string =>
        execFileSync("ip", ["-n", where, ...words], { encoding: "utf8" });
      for (const each of [name, peers]) execFileSync("ip", ["netns", "add", each]);
      t.after(() => [name, peers].forEach((each) => execFileSync("ip", ["netns", "delete", each])));
      ip(name, "link", "add", "eth0", "type", "veth", "peer", "name", "other");
      ip(name, "link", "set", "other", "netns", peers);
      for (const [where, link, address] of [
        [name, "eth0", "10.79.0.2/24"],
        [peers, "other", "10.79.0.1/24"],
      ] as const) {
        ip(where, "address", "add", address, "dev", link);
        ip(where, "link", "set", link, "up");
      }
      t.after(() => removeMachine(vm, model));
      const machine = await start(model, own, { internetworking_model: model }, { netns });
      t.after(() => machine.close());
      // Its kernel answers that nobody listens there.
      const script = 'require("node:net").connect(1, "10.79.0.2").on("error", (error) => console.log(error.code))';
      const said = execFileSync("ip", ["netns", "exec", peers, process.execPath, "-e", script], { encoding: "utf8" });
      assert.equal(said, "ECONNREFUSED\n");
      if (model === "macvtap") {
        assert.doesNotMatch(ip(name, "address", "show", "eth0"), /10\.79\.0\.2/);
        assert.match(ip(name, "-d", "link", "show", "tap0"), /macvtap +mode bridge/);
        return;
      }
      const record = await readRecord(join(dir, "m", model, "hypervisor"));
      const about = readFileSync(`/proc/${record?.pid}/status`, "utf8");
      assert.ok(Number(/^Uid:\t(\d+)/m.exec(about)?.[1]) >= 0x70000000, about);
      for (const set of ["CapEff", "CapPrm", "CapBnd", "CapAmb"])
        assert.match(about, new RegExp(`^${set}:\\t0+$`, "m"));
      assert.match(about, /^NoNewPrivs:\t1$/m);
    });

  test("a guest that does not come up is told with where its console is", async (t) => {
    // Told to be berth's own: any other would be one of Kata's.
    writeFileSync(join(dir, "image.json"), '{ "absent": [] }');
    writeFileSync(join(dir, "no-initrd"), "");
    await assert.rejects(
      boot(t, "dead", { initrd: join(dir, "no-initrd") }),
      /the guest did not answer|hypervisor ended with status/,
    );
    assert.match(readFileSync(join(dir, "m/dead/hypervisor.log"), "utf8"), /Kernel panic/);
  });
});

/** What one plan carries. */
const CHUNK = 1 << 20;

async function eventually(what: string, isSo: () => Promise<boolean>): Promise<void> {
  for (const end = Date.now() + 60_000; !(await isSo()); await new Promise((resolve) => setTimeout(resolve, 20)))
    if (Date.now() > end) throw new Error(`not within a minute: ${what}`);
}
