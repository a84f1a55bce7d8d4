/** `bosun guest` as PID 1 of a real machine, and `bosun relay` on the host. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import type { Socket } from "node:net";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { test } from "node:test";
import {
  connectHand,
  connectMonitor,
  HandLost,
  type MonitorLink,
  NO_SLOT,
  O,
  reachThrough,
  startHand,
  STREAM,
  type Order,
} from "@berth/kernel";
import { guestProblem } from "./guest.ts";
import { bootMachine, bosun, VSOCK_MODULES } from "./machine.ts";

const SERVE = "/run/berth/serve.sock";
const ENV = ["PATH=/bin"];

/** A process of the machine's busybox. */
const process_ = (script: string): Order[] => [
  { order: "clone", args: { flags: 0n, cgroupSlot: NO_SLOT, uidMap: "", gidMap: "", denySetgroups: 0 } },
  { order: "setsid", args: {} },
  { order: "park", args: {} },
  { order: "exec", args: { argv: ["/bin/busybox", "sh", "-c", script], env: ENV, keep: 0 } },
];

/** The lines of a relay, on a connection to one. */
async function askFor(socket: Socket, path: string): Promise<Socket> {
  for (const line of ["CONNECT 1024", `PATH ${path}`]) {
    socket.write(`${line}\n`);
    const [answer] = (await once(socket.resume(), "data")) as [Buffer];
    if (!/^OK( 1024)?\n$/.test(answer.toString())) throw new Error(answer.toString());
  }
  socket.pause();
  return socket;
}

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
        // Twice: one that is there already is no error. (What /etc/berth/modules names is gone from the initramfs.)
        ...Array.from({ length: 2 }, (): Order => ({
          order: "load_module",
          args: { path: "/lib/vsock.ko", parameters: "" },
        })),
        { order: "find", args: { pattern: "/sys/class/virtio-ports/*/name", timeoutMs: 60_000 } },
        { order: "online", args: { cpus: 8, memory: 8, movable: 0 } },
        { order: "read_file", args: { path: "/sys/class/net/lo/operstate", max: 100 } },
      ],
    });
    assert.match(Buffer.from(outputs.get(4) ?? []).toString(), /^\/sys\/class\/virtio-ports\/vport\d+p\d+\/name\0/);
    assert.equal(Buffer.from(outputs.get(6) ?? []).toString(), "unknown\n"); // which is up, of a loopback
    const { stdout } = await hand.spawn({ argv: ["/bin/busybox", "date", "+%s"], env: {} });
    assert.ok(BigInt(Buffer.from(stdout).toString().trim()) - time < 600n);
  });

  await t.test("vsock, over its loopback: the machine plays its own host", async () => {
    const load = VSOCK_MODULES.map((path): Order => ({
      order: "load_module",
      args: { path: `/lib/${basename(path)}`, parameters: "" },
    }));
    await hand.run({ orders: load });
    const start = async (...argv: readonly string[]): Promise<MonitorLink> => {
      const name = `/run/berth/c/${argv[0]}-${argv[2]}`;
      await hand.run({ orders: [{ order: "mkdir", args: { path: name, mode: 0o700, existOk: 0, parents: 1 } }] });
      const last: Order = { order: "exec", args: { argv: ["/init", ...argv], env: ENV, keep: 0 } };
      await hand.monitor({ dir: name, plan: { orders: [...process_("").slice(0, -1), last] } });
      const monitor = await connectMonitor(name, undefined, reach);
      const said = await monitor.attach(0, STREAM.stdout);
      await monitor.start();
      const [ready] = (await once(said.resume(), "data")) as [Buffer];
      assert.equal(ready.toString(), "ready\n");
      return monitor;
    };
    const monitors = [
      await start("guest", "--channel", "vsock:6001:1", "--serve", "/run/second.sock"),
      await start("relay", "--channel", "vsock:1:6001", "--listen", "/run/relay.sock"),
      await start("guest", "--channel", "vsock:1024", "--serve", "/run/refuses.sock"),
    ];
    const second = await connectHand(
      "/run/second.sock",
      async (path) => await askFor(await reach("/run/relay.sock"), path),
    );
    const { stdout } = await second.spawn({ argv: ["/bin/busybox", "head", "-c", "300000", "/dev/zero"], env: {} });
    assert.equal(stdout.length, 300_000);
    await assert.rejects(async () => await askFor(await reach("/run/relay.sock"), "/no/socket"), /ERR ENOENT/);
    await second.close();
    // Without ":1" the peer has to be a host, which nobody in the machine is: this relay loses its connection at once.
    const refused = await start("relay", "--channel", "vsock:1:1024", "--listen", "/run/refused.sock");
    assert.equal((await refused.exited).code, 0);
    for (const monitor of [...monitors, refused]) monitor.close();
  });

  const host = mkdtempSync(join(tmpdir(), "berth-host-"));
  const hostHand = await startHand({ bosun, state: join(host, "state") });
  t.after(async () => {
    await hostHand.close();
    rmSync(host, { recursive: true, force: true });
  });
  /** A process there, and the one here that stands for it, started. */
  const standIn = async (name: string, script: string): Promise<MonitorLink> => {
    const there = `/run/berth/c/${name}`;
    const here = join(host, name);
    mkdirSync(here);
    await hand.run({ orders: [{ order: "mkdir", args: { path: there, mode: 0o700, existOk: 0, parents: 1 } }] });
    await hand.monitor({ dir: there, plan: { orders: process_(script) } });
    const args = { relay: machine.relay, monitor: `${there}/monitor.sock`, stdin: 0, terminal: 0, oomFile: "" };
    const orders: Order[] = [
      { order: "setsid", args: {} },
      { order: "park", args: {} },
      { order: "guest_process", args },
    ];
    await hostHand.monitor({ dir: here, plan: { orders }, logPath: join(here, "log") });
    const monitor = await connectMonitor(here);
    await monitor.start();
    return monitor;
  };

  await t.test("a process on the host stands for one there: its log, its exit code", async () => {
    const monitor = await standIn("brief", "echo out; echo err >&2; exit 7");
    assert.equal((await monitor.exited).code, 7);
    const log = readFileSync(join(host, "brief", "log"), "utf8");
    assert.match(log, / stdout F out$/m);
    assert.match(log, / stderr F err$/m);
    monitor.close();
  });

  await t.test(
    "the end of the machine is the end of every connection, of the relay and of what stands for its processes",
    async () => {
      const lasting = await standIn("lasting", "sleep 1000");
      const connection = await reach(SERVE);
      connection.resume();
      const ended = once(connection, "end");
      const relayEnded = machine.relayProcess.exitCode === null ? once(machine.relayProcess, "exit") : undefined;
      machine.qemu.kill("SIGKILL");
      await ended;
      await relayEnded;
      assert.equal(machine.relayProcess.exitCode, 0);
      assert.equal((await lasting.exited).code, 137);
      lasting.close();
      connection.destroy();
    },
  );
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
