/** Machines that are copies of a template, under TCG: made behind the first, nothing in common but what they are made of, and cold where a copy fails. */
import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test, type TestContext } from "node:test";
import { type Hand, type Order, probeHost, readRecord, startHand } from "@berth/kernel";
import {
  Cache,
  Factory,
  type MachineCache,
  type PodMachine,
  removeMachine,
  settingsOf,
  startMachine,
  type VmHost,
} from "@berth/vm";
import { checkout, run } from "./support/daemon.ts";
import { makeGuestImage } from "../bench/lib/guest-image.ts";
import { vmProblem } from "./support/vm.ts";

describe("copies of a template", { skip: vmProblem() ?? false, timeout: 900_000 }, () => {
  let dir: string;
  let vm: VmHost;
  let factory: Factory;
  let count = 0;
  const logged: string[] = [];
  before(async () => {
    dir = mkdtempSync(join(tmpdir(), "berth-template-"));
    await makeGuestImage(join(dir, "image"));
    const hand = await startHand({ bosun: `${checkout}/.build/native/bosun`, state: join(dir, "state") });
    factory = new Factory(join(dir, "templates"));
    const log: VmHost["log"] = (_level, message) => void logged.push(message);
    vm = { hand, host: await probeHost(hand), machines: join(dir, "m"), image: join(dir, "image"), factory, log };
  });
  after(async () => {
    await factory?.close();
    await vm?.hand.close();
    rmSync(dir, { recursive: true, force: true });
  });

  async function start(
    t: TestContext,
    own: Record<string, unknown>,
    netns?: string,
    { cache, ...more }: { cache?: MachineCache; enable_template?: boolean; vm_cache_number?: number } = {},
  ): Promise<PodMachine> {
    const id = `m${count++}`;
    t.after(() => removeMachine(vm, id));
    const qemu = { default_memory: 192, default_maxmemory: 192, ...own };
    const machine = await startMachine(cache ? { ...vm, cache } : vm, {
      id,
      settings: settingsOf({ hypervisor: { qemu }, factory: more }),
      netns,
      cgroup: `/berth-test-template-${process.pid}-${id}`,
      hostname: `guest-${id}`,
      shmSize: 1 << 20,
      sysctls: {},
    });
    t.after(() => machine.close());
    return machine;
  }

  /** With an interface as CNI would leave it. */
  async function network(t: TestContext, mac: string): Promise<string> {
    const [name, peer] = [`berth-template-${process.pid}-${count}`, `bt${process.pid}-${count}`];
    t.after(() => run(["ip", "netns", "delete", name]));
    await run(["ip", "netns", "add", name]);
    await run([
      "ip",
      "-n",
      name,
      "link",
      "add",
      "eth0",
      "address",
      mac,
      "type",
      "veth",
      "peer",
      "name",
      peer,
      "netns",
      "1",
    ]);
    await run(["ip", "-n", name, "address", "add", "192.0.2.7/24", "dev", "eth0"]);
    await run(["ip", "-n", name, "link", "set", "eth0", "up"]);
    return `/run/netns/${name}`;
  }

  async function isCopy({ directory }: PodMachine): Promise<boolean> {
    const record = await readRecord(`${directory}/hypervisor`);
    return readFileSync(`/proc/${record?.pid}/cmdline`, "utf8").includes("-incoming");
  }

  async function read(hand: Hand, ...paths: readonly string[]): Promise<string[]> {
    const orders = paths.map((path): Order => ({ order: "read_file", args: { path, max: 4096 } }));
    const outputs = await hand.run({ orders });
    return paths.map((_, index) =>
      Buffer.from(outputs.get(index) ?? [])
        .toString()
        .trim(),
    );
  }

  test("the first machine boots, and those after it are copies that have nothing of each other", async (t) => {
    const first = await start(t, {});
    assert.equal(await isCopy(first), false);
    await factory.idle();
    assert.deepEqual(logged, []);
    const [digest = ""] = readdirSync(join(dir, "templates"));
    // Nothing of the machine that it was made of is left.
    assert.deepEqual(readdirSync(vm.machines), [first.id]);

    const random = "/proc/sys/kernel/random";
    const seen: string[][] = [];
    for (const mac of ["02:00:00:00:00:01", "02:00:00:00:00:02"]) {
      const copy = await start(t, {}, await network(t, mac));
      assert.equal(await isCopy(copy), true);
      const { hand } = copy.guest;
      const [boot = "", uuid = "", address = "", hostname = "", routes = ""] = await read(
        hand,
        `${random}/boot_id`,
        `${random}/uuid`,
        "/sys/class/net/eth0/address",
        "/proc/sys/kernel/hostname",
        "/proc/net/fib_trie",
      );
      assert.equal(address, mac);
      assert.equal(hostname, `guest-${copy.id}`);
      assert.match(routes, /192\.0\.2\.7/);
      seen.push([boot, uuid, address, hostname]);

      // Each has the share of its own pod.
      mkdirSync(join(copy.directory, "rw/c"));
      writeFileSync(join(copy.directory, "rw/c/file"), `of ${copy.id}`);
      assert.deepEqual(await read(hand, "/run/berth/shared/c/file"), [`of ${copy.id}`]);
    }
    const [one = [], other = []] = seen;
    for (const [index, value] of one.entries()) assert.notEqual(value, other[index]);
    for (const value of seen.flat()) assert.notEqual(value, "");

    // A machine without a share has what it does not write in common with its template.
    const tomorrow = Date.now() + 86_400_000;
    const clock = t.mock.method(Date, "now", () => tomorrow);
    const lone = await start(t, { shared_fs: "none" });
    clock.mock.restore();
    assert.equal(await isCopy(lone), true);
    // Its clock is that of whoever started it, and not its template's.
    const [stat = "", uptime = ""] = await read(lone.guest.hand, "/proc/stat", "/proc/uptime");
    const now = Number(/^btime (\d+)$/m.exec(stat)?.[1]) + Number.parseFloat(uptime);
    assert.ok(Math.abs(now - tomorrow / 1000) < 3600, String(now));
    assert.deepEqual(readdirSync(join(dir, "templates")), [digest]);
  });

  test("where a copy does not come to life the machine boots, and its template is made again", async (t) => {
    const [digest = ""] = readdirSync(join(dir, "templates"));
    truncateSync(join(dir, "templates", digest, "state"), 1000);
    const machine = await start(t, {});
    assert.equal(await isCopy(machine), false);
    assert.equal(logged.length, 1);
    assert.match(logged[0] ?? "", /no machine could be copied from template .*: restore of a template: /);
    await factory.idle();
    assert.equal(await isCopy(await start(t, {})), true);

    // Twice is enough.
    truncateSync(join(dir, "templates", digest, "state"), 0);
    assert.equal(await isCopy(await start(t, {})), false);
    assert.match(logged[1] ?? "", /machines of this configuration boot each for itself from now on/);
    await factory.idle();
    assert.deepEqual(readdirSync(join(dir, "templates")), []);
  });

  test("machines that boot can wait for a pod too, as many as are asked for, and without a share or network", async (t) => {
    const cache: MachineCache = new Cache((message) => void logged.push(message));
    t.after(() => cache.close());
    logged.length = 0;
    const asked = { cache, enable_template: false, vm_cache_number: 2 };
    const own = { shared_fs: "none" };
    const first = await start(t, own, undefined, asked);
    await cache.settled();
    const waiting = readdirSync(vm.machines).filter((name) => name.startsWith("vmc-"));
    assert.equal(waiting.length, 2);
    const pids = await Promise.all(
      waiting.map(async (name) => (await readRecord(`${vm.machines}/${name}/hypervisor`))?.pid),
    );
    const second = await start(t, own, undefined, asked);
    const record = await readRecord(`${second.directory}/hypervisor`);
    assert.ok(pids.includes(record?.pid));
    assert.equal(await isCopy(second), false);
    assert.deepEqual(await read(second.guest.hand, "/proc/sys/kernel/hostname"), [`guest-${second.id}`]);

    // One with a network is another kind, whose first boots.
    const third = await start(t, own, await network(t, "02:00:00:00:00:03"), { ...asked, vm_cache_number: 1 });
    await cache.settled();
    const fourth = await start(t, own, await network(t, "02:00:00:00:00:04"), { ...asked, vm_cache_number: 0 });
    assert.equal(third.apart, undefined);
    assert.match(fourth.apart ?? "", /^\/proc\/\d+\/ns\/net$/);
    const [address, routes = ""] = await read(fourth.guest.hand, "/sys/class/net/eth0/address", "/proc/net/fib_trie");
    assert.equal(address, "02:00:00:00:00:04");
    assert.match(routes, /192\.0\.2\.7/);

    await cache.close();
    const left = readdirSync(vm.machines).sort();
    assert.deepEqual(left, [first, second, third, fourth].map(({ id }) => id).sort());
    assert.deepEqual(logged, []);
  });
});
