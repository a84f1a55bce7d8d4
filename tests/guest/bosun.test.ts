/** `bosun guest` as PID 1 of a real machine, and `bosun relay` on the host. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { test } from "node:test";
import { connectHand, connectMonitor, HandLost, NO_SLOT, O, reachThrough, STREAM, type Order } from "@berth/kernel";
import { guestProblem } from "./guest.ts";
import { bootMachine } from "./machine.ts";

const SERVE = "/run/berth/serve.sock";
const ENV = ["PATH=/bin"];

/** A process of the machine's busybox. */
const process_ = (script: string): Order[] => [
  { order: "clone", args: { flags: 0n, cgroupSlot: NO_SLOT, uidMap: "", gidMap: "", denySetgroups: 0 } },
  { order: "setsid", args: {} },
  { order: "park", args: {} },
  { order: "exec", args: { argv: ["/bin/busybox", "sh", "-c", script], env: ENV, keep: 0 } },
];

test("a machine with bosun as PID 1 is told what to do through the relay", { timeout: 300_000 }, async (t) => {
  const problem = guestProblem();
  if (problem !== undefined) return t.skip(problem);
  const machine = await bootMachine(t);
  const reach = reachThrough(machine.relay, { timeoutMs: 120_000 });
  const began = performance.now();
  const hand = await connectHand(SERVE, reach).catch((error: unknown) => {
    throw new Error(`the guest did not come up; its console:\n${machine.console()}`, { cause: error });
  });
  t.diagnostic(`up in ${Math.round(performance.now() - began)} ms`);

  await t.test("a plan is carried out there, on a kernel with what containers need", async () => {
    const outputs = await hand.run({
      orders: [
        { order: "open", args: { slot: 0, path: "/proc", flags: BigInt(O.PATH) } },
        { order: "read_in", args: { root: 0, path: "mounts", max: 65_536 } },
        { order: "read_in", args: { root: 0, path: "meminfo", max: 65_536 } },
      ],
    });
    const text = (index: number): string => Buffer.from(outputs.get(index) ?? []).toString();
    for (const place of ["/sys", "/dev", "/dev/pts", "/dev/shm", "/run", "/sys/fs/cgroup"])
      assert.match(text(1), new RegExp(`^\\S+ ${place} `, "m"));
    assert.match(text(1), /^cgroup2 /m);
    const kilobytes = (key: string): number => Number(new RegExp(`^${key}:\\s*(\\d+) kB`, "m").exec(text(2))?.[1]);
    const used = kilobytes("AnonPages") + kilobytes("Shmem");
    assert.ok(used < 5 * 1024, `user space takes ${used} KiB`);
    t.diagnostic(`user space takes ${used} KiB`);
  });

  await t.test("a monitor there runs a process, whose streams come over the channel", async () => {
    const dir = "/run/berth/c/one";
    await hand.run({ orders: [{ order: "mkdir", args: { path: dir, mode: 0o700, existOk: 0, parents: 1 } }] });
    await hand.monitor({ dir, plan: { orders: process_("cat; echo done >&2; exit 3") }, stdin: true, stdinOnce: true });
    const monitor = await connectMonitor(dir, undefined, reach);
    const [stdin, stdout, stderr] = await Promise.all(
      [STREAM.stdin, STREAM.stdout, STREAM.stderr].map((stream) => monitor.attach(0, stream)),
    );
    await monitor.start();
    const input = Buffer.alloc(1 << 20, "0123456789abcdef");
    stdin?.end(input);
    const [out, err] = await Promise.all([stdout?.toArray(), stderr?.toArray()]);
    assert.ok(Buffer.concat(out as Buffer[]).equals(input));
    assert.equal(Buffer.concat(err as Buffer[]).toString(), "done\n");
    assert.equal((await monitor.exited).code, 3);
    monitor.close();
  });

  await t.test("its clock, its generator, its processors and its modules are set by plans", async () => {
    const time = 1_900_000_000n;
    const outputs = await hand.run({
      orders: [
        { order: "set_clock", args: { time: time * 1_000_000_000n } },
        { order: "reseed_rng", args: { data: Buffer.alloc(64, 1) } },
        { order: "load_module", args: { path: "/lib/virtio_console.ko", parameters: "" } }, // it is there already
        { order: "find", args: { pattern: "/sys/class/virtio-ports/*/name", timeoutMs: 60_000 } },
        { order: "online", args: { cpus: 8, memory: 8, movable: 0 } },
        { order: "set_link", args: { name: "lo", hardware: "", newName: "", mtu: 1500, up: 1, timeoutMs: 0 } },
        { order: "read_file", args: { path: "/sys/class/net/lo/mtu", max: 100 } },
      ],
    });
    assert.match(Buffer.from(outputs.get(3) ?? []).toString(), /^\/sys\/class\/virtio-ports\/vport\d+p\d+\/name\0/);
    assert.equal(Buffer.from(outputs.get(6) ?? []).toString(), "1500\n");
    const { stdout } = await hand.spawn({ argv: ["/bin/busybox", "date", "+%s"], env: {} });
    assert.ok(BigInt(Buffer.from(stdout).toString().trim()) - time < 600n);
  });

  await t.test("the end of the machine is the end of every connection, and of the relay", async () => {
    const connection = await reach(SERVE);
    connection.resume();
    const ended = once(connection, "end");
    const relayEnded = machine.relayProcess.exitCode === null ? once(machine.relayProcess, "exit") : undefined;
    machine.qemu.kill("SIGKILL");
    await ended;
    await relayEnded;
    assert.equal(machine.relayProcess.exitCode, 0);
    connection.destroy();
  });
  await hand.close();
});

test("a machine switches itself off when it is told to", { timeout: 300_000 }, async (t) => {
  const problem = guestProblem();
  if (problem !== undefined) return t.skip(problem);
  const machine = await bootMachine(t);
  const hand = await connectHand(SERVE, reachThrough(machine.relay, { timeoutMs: 120_000 }));
  const off = once(machine.qemu, "exit");
  await hand.run({ orders: [{ order: "power_off", args: {} }] }).catch((error: unknown) => {
    assert.ok(error instanceof HandLost, String(error)); // it may be off before it has answered
  });
  assert.deepEqual(await off, [0, null]);
  await hand.close();
});
