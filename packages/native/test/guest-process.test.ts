/** Processes on the host that stand for processes in a machine: orders relay, guest_process and guest_exec. The machine is played by `bosun guest`. */
import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { constants, tmpdir } from "node:os";
import type { Socket } from "node:net";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import {
  connectHand,
  connectMonitor,
  encodePlan,
  guestError,
  type Hand,
  type MonitorLink,
  OrderError,
  type Order,
  type Plan,
  reachThrough,
  startHand,
  STREAM,
} from "@berth/kernel";
import { bosun, NO_SLOT, order, root } from "./bosun.ts";
import { ended, type Running, startGuest } from "./channel.ts";
import { alive, endMonitors, until } from "./client.ts";

const ENV = ["PATH=/usr/bin:/bin"];
const SIZE = { rows: 24, columns: 80 };
const { SIGKILL, SIGTERM, SIGUSR1 } = constants.signals;

const clone = order("clone", { flags: 0n, cgroupSlot: NO_SLOT, uidMap: "", gidMap: "", denySetgroups: 0 });
const terminal = (bosunRoot = 0): Order[] => [
  root(bosunRoot, "/"),
  order("setsid", {}),
  order("console", { root: bosunRoot, ...SIZE, bindConsole: 0 }),
];
const sh = (script: string): Order => order("exec", { argv: ["/bin/sh", "-c", script], env: ENV, keep: 0 });

interface Setting {
  readonly dir: string;
  /** The host's and the guest's. */
  readonly hand: Hand;
  readonly guestHand: Hand;
  readonly guest: Running;
  readonly relay: string;
  readonly relayMonitor: MonitorLink;
}

async function setting(t: TestContext): Promise<Setting> {
  const dir = mkdtempSync(join(tmpdir(), "bosun-test-"));
  const guest = await startGuest(t, dir);
  const hand = await startHand({ bosun, state: join(dir, "host") });
  const relay = join(dir, "relay.sock");
  const place = join(dir, "relay");
  mkdirSync(place);
  const plan = { orders: [order("park", {}), order("relay", { channel: join(dir, "port"), listen: relay })] };
  await hand.monitor({ dir: place, plan, logPath: join(dir, "relay.log") });
  const relayMonitor = await connectMonitor(place);
  await relayMonitor.start(); // and it listens
  const guestHand = await connectHand(join(dir, "serve.sock"), reachThrough(relay));
  t.after(async () => {
    await guestHand.close();
    relayMonitor.close();
    await hand.close();
    await endMonitors(dir);
    rmSync(dir, { recursive: true });
  });
  return { dir, hand, guestHand, guest, relay, relayMonitor };
}

interface Made {
  readonly host: MonitorLink;
  readonly guest: MonitorLink;
  readonly guestDir: string;
  readonly log: string;
  readonly pid: number;
  readonly plan: Plan;
}

let made = 0;

/** A container of the guest's, and the process of the host's that stands for it; not started. */
async function make(
  t: TestContext,
  at: Setting,
  script: string,
  options: { terminal?: boolean; stdin?: boolean; oom?: boolean; guestPlan?: Plan } = {},
): Promise<Made> {
  const name = `c${++made}`;
  const guestDir = join(at.dir, `guest-${name}`);
  const hostDir = join(at.dir, `host-${name}`);
  mkdirSync(guestDir);
  mkdirSync(hostDir);
  const oomFile = join(hostDir, "oom");
  const guestOom = join(guestDir, "oom");
  for (const file of [oomFile, guestOom]) writeFileSync(file, "oom_kill 0\n");
  const isTerminal = options.terminal === true;
  const plan = options.guestPlan ?? {
    orders: [clone, ...(isTerminal ? terminal() : [order("setsid", {})]), order("park", {}), sh(script)],
  };
  const common = { ...(isTerminal ? { terminal: SIZE } : {}), stdin: options.stdin === true };
  await at.guestHand.monitor({
    dir: guestDir,
    plan,
    ...common,
    stdinOnce: common.stdin,
    oom: options.oom === true ? { file: guestOom, key: "oom_kill" } : undefined,
  });
  const args = {
    relay: at.relay,
    monitor: join(guestDir, "monitor.sock"),
    stdin: Number(common.stdin || isTerminal),
    terminal: Number(isTerminal),
    oomFile: options.oom === true ? oomFile : "",
  };
  const log = join(hostDir, "log");
  const created = await at.hand.monitor({
    dir: hostDir,
    plan: {
      orders: [...(isTerminal ? terminal() : [order("setsid", {})]), order("park", {}), order("guest_process", args)],
    },
    logPath: log,
    ...common,
    stdinOnce: common.stdin,
    oom: options.oom === true ? { file: oomFile, key: "oom_kill" } : undefined,
  });
  const host = await connectMonitor(hostDir);
  const guest = await connectMonitor(guestDir, undefined, reachThrough(at.relay));
  t.after(() => {
    host.close();
    guest.close();
  });
  return { host, guest, guestDir, log, pid: created.pid, plan };
}

const text = async (socket: Socket): Promise<string> => Buffer.concat(await socket.toArray()).toString();
const logged = (log: string): string[] =>
  readFileSync(log, "utf8")
    .trimEnd()
    .split("\n")
    .map((line) => line.slice(line.indexOf(" ") + 1));

test("what it says goes to the log here, stream by stream, and its exit code is the process's", async (t) => {
  const at = await setting(t);
  const { host, log } = await make(t, at, "echo out; echo err >&2; exit 7");
  const state = await host.start();
  assert.equal(state.phase, "running");
  const { code, signal, oom } = await host.exited;
  assert.deepEqual([code, signal, oom], [7, 0, false]);
  assert.deepEqual(logged(log).toSorted(), ["stderr F err", "stdout F out"]);
});

test("input and output of any size, and the end of the input", async (t) => {
  const at = await setting(t);
  const { host } = await make(t, at, "cat; echo end >&2", { stdin: true });
  const [stdin, stdout, stderr] = [
    await host.attach(0, STREAM.stdin),
    await host.attach(0, STREAM.stdout),
    await host.attach(0, STREAM.stderr),
  ];
  await host.start();
  const bytes = Buffer.alloc(3_000_000, "some input\n");
  stdin.end(bytes);
  const [out, err] = await Promise.all([stdout.toArray(), text(stderr)]);
  assert.ok(Buffer.concat(out as Buffer[]).equals(bytes));
  assert.equal(err, "end\n");
  assert.equal((await host.exited).code, 0);
});

test("a process that closes its input and its output here is seen to have done so", async (t) => {
  const at = await setting(t);
  const { host } = await make(t, at, "exec <&- >&-; echo still here >&2; read line </dev/null; exec sleep 1000", {
    stdin: true,
  });
  const [stdin, stdout, stderr] = [
    await host.attach(0, STREAM.stdin),
    await host.attach(0, STREAM.stdout),
    await host.attach(0, STREAM.stderr),
  ];
  await host.start();
  assert.equal(await text(stdout), "", "standard output is at its end, and the process runs");
  assert.equal(await text(stdin), "");
  const [first] = (await stderr[Symbol.asyncIterator]().next()).value as Buffer;
  assert.equal(first, "s".codePointAt(0));
  assert.equal(await host.kill(0, SIGTERM), true);
  assert.equal((await host.exited).code, 128 + SIGTERM);
});

test("a start that fails there fails here, in the words of the plan there", async (t) => {
  const at = await setting(t);
  const plan: Plan = {
    orders: [
      clone,
      order("park", {}),
      { ...order("chdir", { path: "/no/such/place", tolerate: 0 }), because: "process.cwd" },
      sh("true"),
    ],
  };
  const { host } = await make(t, at, "", { guestPlan: plan });
  await assert.rejects(host.start(), (error) => {
    assert.ok(error instanceof OrderError);
    assert.equal(error.code, "ENOENT");
    assert.match(error.message, /order 2 of the guest's plan: chdir \/no\/such\/place/);
    return true;
  });
  const failed = new OrderError("", {
    code: "ENOENT",
    errno: 2,
    order: 1,
    orderName: "guest_process",
    because: undefined,
    where: "stage",
    detail: "order 2 of the guest's plan: chdir /no/such/place",
  });
  const said = guestError(failed, plan);
  assert.ok(said instanceof OrderError);
  assert.match(said.message, /^chdir \/no\/such\/place \(process\.cwd\): ENOENT/);
  assert.equal(said.where, "container");
  const other = new Error("other");
  assert.equal(guestError(other, plan), other);
});

test("signals are handed on", async (t) => {
  const at = await setting(t);
  const { host } = await make(
    t,
    at,
    "trap 'echo usr1' USR1; trap 'exit 5' TERM; echo ready; while :; do sleep 0.01; done",
  );
  const stdout = await host.attach(0, STREAM.stdout);
  const lines = stdout[Symbol.asyncIterator]();
  await host.start();
  assert.equal(String((await lines.next()).value), "ready\n");
  await host.kill(0, SIGUSR1);
  assert.equal(String((await lines.next()).value), "usr1\n");
  await host.kill(0, SIGTERM);
  assert.equal((await host.exited).code, 5);
});

test("a terminal, its size, and what is typed", async (t) => {
  const at = await setting(t);
  const script =
    'stty -echo; stty size; trap \'stty size\' WINCH; read a; echo "[$a]"; until read b; do :; done; echo "[$b]"; exit 4';
  const { host } = await make(t, at, script, { terminal: true });
  const [stdin, stdout] = [await host.attach(0, STREAM.stdin), await host.attach(0, STREAM.stdout)];
  let seen = "";
  const chunks = stdout[Symbol.asyncIterator]();
  const sees = async (what: RegExp): Promise<void> => {
    while (!what.test(seen)) {
      const { value, done } = (await chunks.next()) as IteratorResult<Buffer>;
      assert.notEqual(done, true, `${String(what)} does not come: ${JSON.stringify(seen)}`);
      seen += String(value);
    }
  };
  await host.start();
  await sees(/24 80\r\n/);
  stdin.write("first\n");
  await sees(/\[first\]\r\n/);
  await host.resize(0, 30, 100);
  await sees(/30 100\r\n/);
  stdin.write("second\n");
  await sees(/\[second\]\r\n/);
  assert.equal((await host.exited).code, 4);
});

test("a kill for memory there is one here", async (t) => {
  const at = await setting(t);
  const { host, guestDir } = await make(t, at, "read go; kill -9 $$", { stdin: true, oom: true });
  const stdin = await host.attach(0, STREAM.stdin);
  await host.start();
  writeFileSync(join(guestDir, "oom"), "oom_kill 1\n"); // as the kernel would in memory.events
  stdin.end("go\n");
  const { code, oom } = await host.exited;
  assert.deepEqual([code, oom], [128 + SIGKILL, true]);
});

test("the end of the machine is the end of its processes, at once, with 137", async (t) => {
  const at = await setting(t);
  const [one, two] = [await make(t, at, "exec sleep 1000"), await make(t, at, "exec sleep 1000")];
  await one.host.start();
  await two.host.start();
  await ended(at.guest, "SIGKILL");
  assert.deepEqual([(await one.host.exited).code, (await two.host.exited).code], [137, 137]);
  assert.equal((await at.relayMonitor.exited).code, 0);
  const late = await make(t, { ...at }, "true").catch((error: unknown) => error);
  assert.ok(late instanceof Error);
});

test("the process that stands for one holds little memory, and no descriptor that it does not need", async (t) => {
  const at = await setting(t);
  const { host, pid } = await make(t, at, "cat >/dev/null; exec sleep 1000", { stdin: true });
  await host.start();
  const rollup = readFileSync(`/proc/${pid}/smaps_rollup`, "utf8");
  const kilobytes = [...rollup.matchAll(/^Private_\w+:\s+(\d+) kB$/gm)].reduce(
    (sum, [, size]) => sum + Number(size),
    0,
  );
  t.diagnostic(`${kilobytes} KiB private`);
  if (process.env["BERTH_BOSUN"] === undefined) assert.ok(kilobytes < 256, rollup);
  await host.kill(0, SIGTERM);
  assert.equal((await host.exited).code, 128 + SIGTERM);
});

/** A further process in the guest's container, by the host's monitor. */
function inside(
  at: Setting,
  container: Made,
  script: string,
  options: { stdin?: boolean; terminal?: boolean } = {},
  last: Order = sh(script),
): Plan {
  const isTerminal = options.terminal === true;
  const plan = encodePlan({ orders: [clone, ...(isTerminal ? terminal() : [order("setsid", {})]), last] });
  const args = {
    relay: at.relay,
    monitor: join(container.guestDir, "monitor.sock"),
    stdin: Number(options.stdin === true || isTerminal),
    terminal: Number(isTerminal),
    drainMs: 300,
    plan,
  };
  return { orders: [...(isTerminal ? terminal() : [order("setsid", {})]), order("guest_exec", args)] };
}

test("further processes: collected, attached to, with a terminal, failing, and killed", async (t) => {
  const at = await setting(t);
  const container = await make(t, at, "exec sleep 1000");
  const { host } = container;
  await host.start();

  const { code, stdout, stderr } = await host.execSync({
    plan: inside(at, container, "echo out; echo err >&2; exit 9"),
  });
  assert.deepEqual([code, String(stdout), String(stderr)], [9, "out\n", "err\n"]);
  const large = await host.execSync({ plan: inside(at, container, "head -c 2000000 /dev/zero") });
  assert.equal(large.stdout.length, 2_000_000);

  const { session } = await host.exec({
    plan: inside(at, container, "cat; exit 6", { stdin: true }),
    streams: STREAM.stdin | STREAM.stdout,
  });
  const [input, output] = [await host.attach(session, STREAM.stdin), await host.attach(session, STREAM.stdout)];
  input.end("typed");
  assert.equal(await text(output), "typed");
  assert.deepEqual(await host.wait(session), { code: 6, signal: 0 });

  const shown = await host.exec({
    plan: inside(at, container, "tty >/dev/null && stty size", { terminal: true }),
    streams: STREAM.stdout,
    terminal: SIZE,
  });
  assert.equal(await text(await host.attach(shown.session, STREAM.stdout)), "24 80\r\n");
  assert.equal((await host.wait(shown.session)).code, 0);

  const none = inside(at, container, "", {}, order("exec", { argv: ["/no/program"], env: ENV, keep: 0 }));
  await assert.rejects(host.execSync({ plan: none }), { code: "ENOENT" });

  const file = join(at.dir, "pid");
  writeFileSync(file, "");
  const abort = new AbortController();
  const lasting = host.execSync(
    { plan: inside(at, container, `echo $$ >${file}; exec sleep 1000`) },
    { signal: abort.signal },
  );
  const pid = (): number => Number(readFileSync(file, "utf8"));
  await until("it runs", () => pid() > 0, 60_000);
  abort.abort(new Error("no longer wanted"));
  await assert.rejects(lasting, /no longer wanted/);
  await until("what was killed here is gone there", () => !alive(pid()), 60_000);
});
