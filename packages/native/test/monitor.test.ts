import assert from "node:assert/strict";
import { once } from "node:events";
import { constants } from "node:os";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { test, type TestContext } from "node:test";
import { STREAM } from "@berth/kernel";
import { PLAN_VERSION } from "@berth/kernel";
import { bosun } from "./bosun.ts";
import {
  alive,
  CLONE,
  collect,
  type Container,
  container,
  endMonitors,
  exec,
  frame,
  Link,
  openDescriptors,
  ownProcesses,
  parseLog,
  parseRecord,
  plan,
  rejoin,
  serve,
  sh,
  shProcess,
  startServe,
  until,
} from "./client.ts";

const { EPROTO, ECANCELED, ETIMEDOUT, ENOENT, ESRCH, EALREADY, EPIPE, ENOTTY, EINVAL } = constants.errno;
const CREATED = 1,
  RUNNING = 2,
  EXITED = 3;

/** Starts the container and returns its exit event. */
async function runToEnd(c: Container): Promise<Record<string, unknown>> {
  const watcher = await c.another();
  await watcher.ask("watch", "state");
  await c.link.ask("start", "state");
  const event = await watcher.event();
  await c.gone();
  return event.fields;
}

async function attach(c: Container, session: number, stream: number): Promise<Link> {
  const link = await c.another();
  await link.ask("attach", "report", { session, stream });
  return link;
}

async function started(t: TestContext, script: string, options: object = {}): Promise<Container> {
  const c = await (await serve(t)).container(sh(script), options as Record<string, number>);
  await c.link.ask("start", "state");
  return c;
}

const syncExec = (script: string, more: object = {}) => ({
  sync: 1,
  limit: 1 << 20,
  drainMs: 200,
  plan: shProcess(script),
  ...more,
});

test("a container's life: created, running, exited; record, events and exit codes agree", async (t) => {
  const s = await serve(t);
  const before = BigInt(Date.now()) * 1_000_000n;
  const c = await s.container(sh("exit 42"));
  assert.equal(statSync(join(c.dir, "monitor.sock")).mode & 0o777, 0o600);
  assert.equal((await c.link.ask("query", "state"))["phase"], CREATED);
  assert.equal(c.record()["phase"], "created");
  assert.equal(
    c.record()["pid_start"],
    readFileSync(`/proc/${String(c.created["pid"])}/stat`, "latin1")
      .split(") ")[1]
      ?.split(" ")[19],
  );
  assert.equal(readFileSync(`/proc/${String(c.created["monitorPid"])}/comm`, "utf8"), "bosun-monitor\n");
  const watcher = await c.another();
  assert.equal((await watcher.ask("watch", "state"))["phase"], CREATED);
  const running = await c.link.ask("start", "state");
  assert.equal(running["phase"], RUNNING);
  const { fields } = await watcher.event();
  assert.deepEqual(
    [fields["phase"], fields["code"], fields["signal"], fields["oom"], fields["lost"]],
    [EXITED, 42, 0, 0, 0n],
  );
  const times = [
    before,
    fields["createdAt"],
    fields["startedAt"],
    fields["finishedAt"],
    BigInt(Date.now() + 1) * 1_000_000n,
  ] as bigint[];
  assert.deepEqual(
    [...times].sort((a, b) => (a < b ? -1 : a > b ? 1 : 0)),
    times,
  );
  await c.gone();
  const record = c.record();
  assert.deepEqual(
    [record["phase"], record["code"], record["signal"], record["finished_at"]],
    ["exited", "42", "0", String(fields["finishedAt"])],
  );
  assert.deepEqual(readdirSync(c.dir).sort(), ["log", "record"]);
});

test("signals are told as 128 + signal", async (t) => {
  const c = await started(t, "exec sleep 1000");
  await c.link.ask("watch", "state");
  await c.link.ask("kill", "report", { session: 0, signal: 15 });
  const { fields } = await c.link.event();
  assert.deepEqual([fields["code"], fields["signal"]], [143, 15]);
  await c.gone();
});

test("killed before it was started: exited, never started", async (t) => {
  const c = await (await serve(t)).container(sh("exit 0"));
  await c.link.ask("watch", "state");
  await c.link.ask("kill", "report", { session: 0, signal: 9 });
  const { fields } = await c.link.event();
  assert.deepEqual([fields["phase"], fields["code"], fields["startedAt"]], [EXITED, 137, 0n]);
  await c.gone();
  assert.equal(c.record()["phase"], "exited");
});

test("a command that is not there: start says so, and the record ends unstarted", async (t) => {
  const c = await (await serve(t)).container(container("/no/such/program"));
  await c.link.ask("watch", "state");
  const detail = await c.link.refused(ENOENT, "start");
  assert.match(detail, /\/no\/such\/program/);
  const { fields } = await c.link.event();
  assert.deepEqual([fields["phase"], fields["startedAt"]], [EXITED, 0n]);
  assert.notEqual(fields["code"], 0);
  await c.gone();
});

test("start twice, and after the end", async (t) => {
  const c = await started(t, "read x", { stdin: 1, stdinOnce: 1 });
  await c.link.refused(EALREADY, "start");
  await c.link.refused(ESRCH, "kill", { session: 77, signal: 9 });
  await c.link.ask("watch", "state");
  (await attach(c, 0, STREAM.stdin)).socket.end();
  assert.equal((await c.link.event()).fields["phase"], EXITED);
  await c.gone();
});

test("a plan that fails leaves nothing: no process, socket or record", async (t) => {
  const s = await serve(t);
  const link = await s.link();
  const plans = [
    [plan(CLONE, ["mkdir", { path: "/proc/no", mode: 0o755 }], ["park"], exec("/bin/true")), ENOENT, 1],
    [plan(["mkdir", { path: "/proc/no", mode: 0o755 }], CLONE, ["park"], exec("/bin/true")), ENOENT, 0],
    [plan(CLONE, exec("/bin/true")), constants.errno.EIO, 0xffffffff],
    [Buffer.from("garbage"), undefined, undefined],
  ] as const;
  for (const [encoded, errno, order] of plans) {
    const dir = mkdtempSync(join(s.directory, "m"));
    const { name, fields } = await link.call("monitor", { dir, logPath: join(dir, "log"), plan: encoded });
    assert.equal(name, "report");
    if (errno !== undefined)
      assert.deepEqual([fields["errno"], fields["order"]], [errno, order], String(fields["detail"]));
    assert.deepEqual(readdirSync(dir), ["log"]);
  }
  assert.match(
    await link.refused(ENOENT, "monitor", { dir: join(s.directory, "none"), plan: sh("exit") }),
    /directory/,
  );
  const dir = mkdtempSync(join(s.directory, "m"));
  assert.match(
    await link.refused(ENOENT, "monitor", { dir, logPath: "/no/such/dir/log", plan: sh("exit") }),
    /open \/no\/such\/dir\/log/,
  );
  assert.deepEqual(readdirSync(dir), []);
  await link.end();
});

test("a creation that hangs is undone at its time-out, by cancel, with the connection and with serve", async (t) => {
  const directory = mkdtempSync(join(tmpdir(), "bosun-serve-"));
  t.after(async () => {
    await endMonitors(directory);
    rmSync(directory, { recursive: true, force: true });
  });
  const s = await startServe(directory);
  const link = await s.link();
  const fifo = join(s.directory, "fifo");
  await link.ask("spawn", "spawned", { argv: ["/usr/bin/mkfifo", fifo] });
  const open = ["open", { slot: 0, path: fifo, flags: 0n }] as const;
  for (const hang of [plan(CLONE, open, ["park"], exec("/bin/true")), plan(open, CLONE, ["park"], exec("/bin/true"))]) {
    const request = () => {
      const dir = mkdtempSync(join(directory, "m"));
      return { dir, plan: hang };
    };
    const pidOf = async (dir: string) => {
      await until("it is being made", () => existsSync(join(dir, "record")));
      return Number(/monitor_pid (\d+)/.exec(readFileSync(join(dir, "record"), "utf8"))?.[1]);
    };
    const a = request(),
      b = request(),
      c = request();
    await link.refused(ETIMEDOUT, "monitor", a, 150);
    assert.deepEqual(readdirSync(a.dir), []);
    const id = link.nextId,
      cancelled = link.refused(ECANCELED, "monitor", b);
    await pidOf(b.dir);
    link.send("cancel", { id });
    await cancelled;
    assert.deepEqual(readdirSync(b.dir), []);
    const other = await s.link();
    other.send("monitor", c);
    const monitor = await pidOf(c.dir);
    await other.end();
    await until("it is undone", () => !alive(monitor) && readdirSync(c.dir).length === 0);
  }
  const d = { dir: mkdtempSync(join(directory, "m")), plan: plan(CLONE, open, ["park"], exec("/bin/true")) };
  link.send("monitor", d);
  await until("it is being made", () => existsSync(join(d.dir, "record")));
  await s.stop();
  assert.deepEqual(readdirSync(d.dir), [], "serve ends only after what it was making is undone");
});

test("kill -9 of serve during creation: the monitor undoes what it has made", async (t) => {
  const directory = mkdtempSync(join(tmpdir(), "bosun-serve-"));
  t.after(async () => {
    await endMonitors(directory);
    rmSync(directory, { recursive: true, force: true });
  });
  const s = await startServe(directory);
  const link = await s.link();
  const fifo = join(directory, "fifo");
  await link.ask("spawn", "spawned", { argv: ["/usr/bin/mkfifo", fifo] });
  const dir = mkdtempSync(join(directory, "m"));
  link.send("monitor", {
    dir,
    plan: plan(CLONE, ["open", { slot: 0, path: fifo, flags: 0n }], ["park"], exec("/bin/true")),
  });
  await until("it is being made", () => existsSync(join(dir, "record")));
  s.process.kill("SIGKILL");
  await until("it is undone", () => readdirSync(dir).length === 0);
  await link.end();
});

/** Undefined where the record is not there, or goes away meanwhile. */
function phaseOf(record: string): string | undefined {
  try {
    return parseRecord(record)["phase"];
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
}

/** Asks a container's monitor and ends it; false where it goes away meanwhile. */
async function reached(dir: string): Promise<boolean> {
  let state: Readonly<Record<string, string>>;
  try {
    state = parseRecord(join(dir, "record"));
    const monitor = await Link.open(join(dir, "monitor.sock"));
    assert.equal((await monitor.ask("query", "state"))["pid"], Number(state["pid"]));
    await monitor.ask("kill", "report", { session: 0, signal: 9 });
    await until("it has ended", () => !alive(Number(state["pid"])) && !alive(Number(state["monitor_pid"])));
    await monitor.end();
    return true;
  } catch (error) {
    if (error instanceof assert.AssertionError) throw error;
    return false;
  }
}

test("kill -9 of serve at any moment of creation: a container that can be reached, or nothing", async (t) => {
  const directory = mkdtempSync(join(tmpdir(), "bosun-serve-"));
  t.after(async () => {
    await endMonitors(directory);
    rmSync(directory, { recursive: true, force: true });
  });
  let kept = 0,
    undone = 0;
  for (let round = 0; round < 24; round++) {
    const s = await startServe(directory);
    const link = await s.link();
    const dirs = Array.from({ length: 4 }, () => mkdtempSync(join(directory, "m")));
    for (const dir of dirs) link.send("monitor", { dir, plan: container("/bin/sleep", "1000") });
    const until_ = performance.now() + round / 4;
    while (performance.now() < until_) await new Promise((resolve) => setImmediate(resolve));
    s.process.kill("SIGKILL");
    await once(s.process, "exit");
    await link.end();
    for (const dir of dirs) {
      const settled = () => readdirSync(dir).length === 0 || phaseOf(join(dir, "record")) === "created";
      await until("the monitor has settled", settled);
      // One that has not heard that its answer was taken is still about to undo all: then it stops answering, and all is gone.
      if (readdirSync(dir).length > 0 && (await reached(dir))) kept++;
      else {
        await until("all is undone", () => readdirSync(dir).length === 0);
        undone++;
      }
    }
  }
  t.diagnostic(`${kept} kept, ${undone} undone`);
  assert.equal(kept + undone, 96);
  await until("no stage is left", () => ownProcesses(directory).length === 0);
});

test("kill -9 of serve and of the client under a running monitor: logs go on, the record is right", async (t) => {
  const directory = mkdtempSync(join(tmpdir(), "bosun-serve-"));
  t.after(async () => {
    await endMonitors(directory);
    rmSync(directory, { recursive: true, force: true });
  });
  const s = await startServe(directory);
  const c = await s.container(
    sh("i=0; while [ $i -lt 300 ]; do echo line $i; i=$((i+1)); [ $((i%50)) = 0 ] && sleep 0.02; done; exit 9"),
  );
  await c.link.ask("start", "state");
  s.process.kill("SIGKILL");
  c.link.socket.destroy();
  await c.gone();
  assert.deepEqual([c.record()["phase"], c.record()["code"]], ["exited", "9"]);
  const lines = parseLog(c.logged());
  assert.deepEqual(
    lines.map((line) => String(line.content)),
    Array.from({ length: 300 }, (_, i) => `line ${i}`),
  );
  assert.equal(existsSync(join(c.dir, "monitor.sock")), false);
});

test("kill -9 of the monitor while its process is parked ends the process", async (t) => {
  const c = await (await serve(t)).container(sh("exec sleep 1000"));
  process.kill(Number(c.created["monitorPid"]), "SIGKILL");
  await until("the parked process is gone", () => !alive(Number(c.created["pid"])));
  assert.equal(c.record()["phase"], "created");
});

test("stdin, stdout and stderr attached by several clients; one that vanishes is dropped", async (t) => {
  const c = await (await serve(t)).container(sh("cat; echo bye >&2"), { stdin: 1, stdinOnce: 1 });
  const outs = await Promise.all([
    attach(c, 0, STREAM.stdout),
    attach(c, 0, STREAM.stdout),
    attach(c, 0, STREAM.stdout),
  ]);
  const err = await attach(c, 0, STREAM.stderr);
  const input = await attach(c, 0, STREAM.stdin);
  const collected = [outs[0], outs[1]].map((link) => collect(link));
  const errors = collect(err);
  await c.link.ask("watch", "state");
  await c.link.ask("start", "state");
  await outs[2].end();
  const data = Buffer.alloc(5_000_000, "0123456789abcdef\n");
  input.socket.end(data);
  for (const got of await Promise.all(collected)) assert.ok(got.equals(data));
  assert.equal(String(await errors), "bye\n");
  assert.equal((await c.link.event()).fields["code"], 0);
  await c.gone();
  assert.ok(rejoin(parseLog(c.logged()), "stdout").equals(data));
});

test("stdin of many clients in turn stays open without stdinOnce, and bytes right behind the request count", async (t) => {
  const c = await started(t, "while read x; do echo got $x; [ $x = end ] && exit 5; done", { stdin: 1 });
  const out = await attach(c, 0, STREAM.stdout);
  const all = collect(out);
  for (const word of ["one", "two", "end"]) {
    const link = await c.another();
    link.socket.end(
      Buffer.concat([frame("attach", 1, { session: 0, stream: STREAM.stdin }), Buffer.from(`${word}\n`)]),
    );
    await once(link.socket, "end");
  }
  assert.equal(String(await all), "got one\ngot two\ngot end\n");
  await c.gone();
  assert.equal(c.record()["code"], "5");
});

test("a slow client applies back-pressure and loses nothing; the log goes the same pace", async (t) => {
  const c = await (await serve(t)).container(sh("head -c 6000000 /dev/zero | tr '\\0' x | fold -w 99"));
  const slow = await attach(c, 0, STREAM.stdout);
  slow.socket.pause();
  await c.link.ask("watch", "state");
  await c.link.ask("start", "state");
  await new Promise((resolve) => setTimeout(resolve, 200));
  assert.ok(statSync(c.log).size < 3_000_000, "the container waits for the client");
  const got = await collect(slow);
  await c.link.event();
  await c.gone();
  assert.ok(rejoin(parseLog(c.logged()), "stdout").equals(got));
  assert.equal(got.filter((byte) => byte === 0x78).length, 6_000_000);
});

test("a client that reads nothing holds up neither the exit nor its record", async (t) => {
  const c = await (await serve(t)).container(sh("head -c 60000 /dev/zero; head -c 60000 /dev/zero >&2"));
  const stuck = [await attach(c, 0, STREAM.stdout), await attach(c, 0, STREAM.stderr)];
  for (const link of stuck) link.socket.pause();
  await c.link.ask("watch", "state");
  await c.link.ask("start", "state");
  assert.equal((await c.link.event()).fields["code"], 0);
  for (const link of stuck) await link.end();
  await c.gone();
});

test("no stdin: end of file at once; attach is refused", async (t) => {
  const c = await started(t, "cat; read x", {});
  await c.link.ask("watch", "state");
  await c.link.event();
  const d = await started(t, "exec sleep 1000");
  await d.link.refused(EPIPE, "attach", { session: 0, stream: STREAM.stdin });
  await d.link.refused(EINVAL, "attach", { session: 0, stream: 8 });
  await d.link.refused(ESRCH, "attach", { session: 5, stream: STREAM.stdout });
  await d.link.refused(ENOTTY, "resize", { session: 0, rows: 1, columns: 1 });
});

test("exec_sync: outputs, codes, limits, failure", async (t) => {
  const c = await started(t, "exec sleep 1000");
  const ok = await c.link.ask("exec", "execed", syncExec("echo out; echo err >&2; exit 3"));
  assert.deepEqual(
    [ok["code"], String(ok["stdout"]), String(ok["stderr"]), ok["truncated"], ok["timedOut"]],
    [3, "out\n", "err\n", 0, 0],
  );
  const killed = await c.link.ask("exec", "execed", syncExec("kill -9 $$"));
  assert.deepEqual([killed["code"], killed["signal"]], [137, 9]);
  const long = await c.link.ask("exec", "execed", syncExec("head -c 3000000 /dev/zero", { limit: 100_000 }));
  assert.deepEqual([(long["stdout"] as Buffer).length, long["truncated"], long["code"]], [100_000, 1, 0]);
  const all = await c.link.ask("exec", "execed", syncExec("head -c 4000000 /dev/zero", { limit: 16 << 20 }));
  assert.equal((all["stdout"] as Buffer).length, 4_000_000);
  assert.match(
    await c.link.refused(ENOENT, "exec", { ...syncExec(""), plan: plan(CLONE, exec("/no/such")) }),
    /no\/such/,
  );
});

test("exec_sync: the time-out kills the process and its group; what it wrote before is there", async (t) => {
  const c = await started(t, "exec sleep 1000");
  const mark = `2000.${process.pid}`;
  const late = await c.link.ask("exec", "execed", syncExec(`echo early; sleep ${mark} & sleep ${mark}`), 1500);
  assert.deepEqual([late["timedOut"], late["code"], String(late["stdout"])], [1, 137, "early\n"]);
  assert.deepEqual(
    readdirSync("/proc").filter((pid) => {
      try {
        return readFileSync(`/proc/${pid}/cmdline`, "latin1").includes(mark) && alive(Number(pid));
      } catch {
        return false;
      }
    }),
    [],
  );
});

test("exec_sync: a grandchild that keeps the output open is waited for no longer than drainMs", async (t) => {
  const c = await started(t, "exec sleep 1000");
  const start = Date.now();
  const done = await c.link.ask(
    "exec",
    "execed",
    syncExec("echo now; (setsid sleep 30; echo never) & exit 0", { drainMs: 150 }),
  );
  assert.deepEqual([done["code"], String(done["stdout"]), done["timedOut"]], [0, "now\n", 0]);
  assert.ok(Date.now() - start < 25_000);
  const soon = await c.link.ask("exec", "execed", syncExec("(sleep 0.05; echo soon) & exit 0", { drainMs: 20_000 }));
  assert.equal(String(soon["stdout"]), "soon\n");
  const full = await c.link.ask(
    "exec",
    "execed",
    syncExec("head -c 60000 /dev/zero; setsid sleep 3 & exit 0", { drainMs: 0 }),
  );
  assert.equal((full["stdout"] as Buffer).length, 60_000, "what is in the pipe is never lost");
});

test("exec_sync: 50 at once", async (t) => {
  const c = await started(t, "exec sleep 1000");
  const answers = await Promise.all(
    Array.from({ length: 50 }, (_, i) =>
      c.link.ask("exec", "execed", syncExec(`sleep 0.0$((${i} % 5)); echo ${i}; exit ${i}`)),
    ),
  );
  answers.forEach((answer, i) => assert.deepEqual([answer["code"], String(answer["stdout"])], [i, `${i}\n`]));
  const pid = Number(c.created["monitorPid"]);
  await until("nothing of them is left", () => openDescriptors(pid).length <= 10);
});

test("exec_sync: cancel and a client that vanishes kill the process", async (t) => {
  const c = await started(t, "exec sleep 1000");
  const run = (file: string) => syncExec(`echo $$ > ${file}; exec sleep 1000`);
  const pidIn = async (file: string) => {
    await until("it runs", () => existsSync(file) && readFileSync(file, "utf8").endsWith("\n"));
    return Number(readFileSync(file, "utf8"));
  };
  const a = join(c.dir, "a"),
    b = join(c.dir, "b");
  const id = c.link.nextId,
    cancelled = c.link.refused(ECANCELED, "exec", run(a));
  const first = await pidIn(a);
  c.link.send("cancel", { id });
  await cancelled;
  await until("it is gone", () => !alive(first));
  const other = await c.another();
  other.send("exec", run(b));
  const second = await pidIn(b);
  await other.end();
  await until("it is gone", () => !alive(second));
});

test("streaming exec: nothing is read before it is attached; stdin's end is passed on; wait tells the code", async (t) => {
  const c = await started(t, "exec sleep 1000");
  const streams = STREAM.stdin | STREAM.stdout | STREAM.stderr;
  const { session, pid } = await c.link.ask("exec", "session", {
    streams,
    plan: shProcess("echo first; cat; echo last >&2; exit 6"),
  });
  assert.ok(alive(Number(pid)));
  const waiting = c.link.ask("wait", "execed", { session: Number(session) });
  await new Promise((resolve) => setTimeout(resolve, 30));
  const out = collect(await attach(c, Number(session), STREAM.stdout)),
    err = collect(await attach(c, Number(session), STREAM.stderr));
  const input = await attach(c, Number(session), STREAM.stdin);
  input.socket.end("through\n");
  assert.equal(String(await out), "first\nthrough\n");
  assert.equal(String(await err), "last\n");
  assert.equal((await waiting)["code"], 6);
  await c.link.refused(ESRCH, "wait", { session: Number(session) });
  // One that ended before anybody attached still delivers.
  const quick = await c.link.ask("exec", "session", { streams: STREAM.stdout, plan: shProcess("echo quick") });
  await until("it has ended", () => !alive(Number(quick["pid"])));
  assert.equal(String(await collect(await attach(c, Number(quick["session"]), STREAM.stdout))), "quick\n");
  assert.equal((await c.link.ask("wait", "execed", { session: Number(quick["session"]) }))["code"], 0);
});

test("streaming exec: kill, a failing plan, a late wait, an owner that vanishes", async (t) => {
  const c = await started(t, "exec sleep 1000");
  await c.link.refused(ENOENT, "exec", { plan: plan(CLONE, exec("/no/such")) });
  const { session } = await c.link.ask("exec", "session", { plan: shProcess("exec sleep 1000") });
  await c.link.refused(ETIMEDOUT, "wait", { session: Number(session) }, 50);
  await c.link.ask("kill", "report", { session: Number(session), signal: 15 });
  assert.equal((await c.link.ask("wait", "execed", { session: Number(session) }))["code"], 143);
  const owner = await c.another();
  const orphan = await owner.ask("exec", "session", {
    streams: STREAM.stdin | STREAM.stdout,
    plan: shProcess("head -c 1000000 /dev/zero; cat"),
  });
  await owner.end();
  await until("it does not wait for streams that nobody can attach", () => !alive(Number(orphan["pid"])));
  await c.link.refused(ESRCH, "wait", { session: Number(orphan["session"]) });
});

test("the container's end ends its further processes, and they are answered", async (t) => {
  const c = await started(t, "read x", { stdin: 1, stdinOnce: 1 });
  const other = await c.another();
  const hanging = other.ask("exec", "execed", syncExec("exec sleep 1000"));
  const { session } = await other.ask("exec", "session", { plan: shProcess("exec sleep 1000") });
  const waiting = other.ask("wait", "execed", { session: Number(session) });
  (await attach(c, 0, STREAM.stdin)).socket.end("\n");
  assert.equal((await hanging)["code"], 137);
  assert.equal((await waiting)["code"], 137);
  await c.gone();
});

const consolePlan = (script: string, park: boolean): Buffer =>
  plan(
    ["open", { slot: 1, path: "/", flags: 0o10000000n }],
    CLONE,
    ["setsid"],
    ["console", { root: 1, rows: 24, columns: 80 }],
    ...(park ? [["park"] as const] : []),
    exec("/bin/sh", "-c", script),
  );

test("a terminal: size, resize, echo, logged as stdout, one stream", async (t) => {
  const s = await serve(t);
  const c = await s.container(consolePlan("stty size; tty; read x; stty size; read y; echo done; exit 3", true), {
    terminal: 1,
    rows: 24,
    columns: 80,
    stdin: 1,
  });
  const out = await attach(c, 0, STREAM.stdout),
    input = await attach(c, 0, STREAM.stdin);
  const parts: Buffer[] = [out.raw()];
  out.socket.on("data", (chunk: Buffer) => parts.push(chunk));
  const seen = () => String(Buffer.concat(parts));
  await c.link.refused(EINVAL, "attach", { session: 0, stream: STREAM.stderr });
  await c.link.ask("watch", "state");
  await c.link.ask("start", "state");
  await until("the first size is seen", () => seen().includes("24 80\r\n/dev/"));
  await c.link.ask("resize", "report", { session: 0, rows: 50, columns: 132 });
  input.socket.write("go\n");
  await until("the second size is seen", () => seen().includes("50 132\r\n"));
  await input.end();
  const again = await attach(c, 0, STREAM.stdin);
  again.socket.write("on\n");
  assert.equal((await c.link.event()).fields["code"], 3);
  await c.gone();
  await until("the stream is at its end", () => out.socket.readableEnded);
  assert.match(seen(), /go\r\n.*on\r\ndone\r\n$/s);
  const lines = parseLog(c.logged());
  assert.ok(lines.every((line) => line.stream === "stdout"));
  assert.equal(String(rejoin(lines, "stdout")), seen());
});

test("a terminal in exec", async (t) => {
  const c = await started(t, "exec sleep 1000");
  const { session } = await c.link.ask("exec", "session", {
    terminal: 1,
    rows: 10,
    columns: 20,
    streams: STREAM.stdin | STREAM.stdout,
    plan: consolePlan("stty -echo; stty size; read x; echo $x", false),
  });
  const out = collect(await attach(c, Number(session), STREAM.stdout));
  const input = await attach(c, Number(session), STREAM.stdin);
  input.socket.write("word\n");
  assert.match(String(await out), /10 20\r\n(word\r\n)?word\r\n$/); // echoed or not, as the shell was faster
  assert.equal((await c.link.ask("wait", "execed", { session: Number(session) }))["code"], 0);
});

test("a process that lets go of its terminal for a while keeps it", async (t) => {
  const s = await serve(t);
  const c = await s.container(consolePlan("t=$(tty); exec 0<&- 1>&- 2>&-; sleep 0.1; exec >$t; echo back", true), {
    terminal: 1,
  });
  await runToEnd(c);
  assert.equal(String(rejoin(parseLog(c.logged()), "stdout")), "back\r\n");
});

test("garbage at the monitor's socket closes that connection only", async (t) => {
  const c = await started(t, "exec sleep 1000");
  for (const bytes of [
    Buffer.from("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    frame("run", 1, { plan: plan() }),
    frame("kill", 1, { session: 0, signal: 0 }).fill(9, 0, 1),
    Buffer.alloc(64, 0xff),
  ]) {
    const bad = await c.another();
    bad.socket.write(bytes);
    bad.socket.end();
    await until("it is closed", () => bad.closed);
    const last = [...bad.strays, ...bad.events].at(-1);
    if (last) assert.equal(last.fields["errno"], EPROTO);
    await bad.end();
  }
  assert.equal((await c.link.ask("hello", "welcome", { version: PLAN_VERSION }))["version"], PLAN_VERSION);
  assert.equal((await c.link.ask("query", "state"))["phase"], RUNNING);
});

test("a counter that grew marks the exit as an OOM kill", async (t) => {
  const s = await serve(t);
  for (const [script, oom] of [
    ["printf 'low 0\\noom 1\\noom_kill 4\\n' > FILE", 1],
    ["printf 'oom_kill 3\\noom_kill_disable 9\\n' > FILE", 0],
    ["true", 0],
  ] as const) {
    const file = join(s.directory, "memory.events");
    writeFileSync(file, "low 0\noom 0\noom_kill 3\noom_group_kill 0\n");
    const c = await s.container(sh(script.replace("FILE", file)), { oomFile: file, oomKey: "oom_kill" });
    assert.equal((await runToEnd(c))["oom"], oom);
    assert.equal(c.record()["oom"], String(oom));
  }
});

test("the record cannot be written: the monitor keeps the exit until it can", async (t) => {
  const s = await serve(t);
  const dir = join(s.directory, "full");
  mkdirSync(dir);
  const link = await s.link();
  await link.ask("run", "report", {
    plan: plan(["mount", { source: "tmpfs", target: dir, fstype: "tmpfs", flags: 0n, data: "size=64k" }]),
  });
  const created = await link.ask("monitor", "created", { dir, plan: sh("exit 8") });
  assert.equal(writeUntilFull(join(dir, "ballast")), true);
  const monitor = await Link.open(join(dir, "monitor.sock"));
  await monitor.ask("watch", "state");
  await monitor.ask("start", "state");
  assert.equal((await monitor.event()).fields["code"], 8);
  assert.notEqual(/phase (\w+)/.exec(readFileSync(join(dir, "record"), "utf8"))?.[1], "exited");
  assert.equal((await monitor.ask("query", "state"))["phase"], EXITED);
  rmSync(join(dir, "ballast"));
  await until("the monitor is gone", () => !alive(Number(created["monitorPid"])));
  assert.match(readFileSync(join(dir, "record"), "utf8"), /phase exited\n.*code 8\n/s);
  await link.ask("run", "report", { plan: plan(["unmount", { path: dir, flags: 2n }]) });
  await link.end();
});

function writeUntilFull(path: string): boolean {
  try {
    for (;;) writeFileSync(path, Buffer.alloc(4096), { flag: "a" });
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "ENOSPC";
  }
}

test("the directory vanishes under a running container: the monitor ends with it all the same", async (t) => {
  const c = await started(t, "exec sleep 1000");
  rmSync(c.dir, { recursive: true });
  await c.link.ask("watch", "state");
  await c.link.ask("kill", "report", { session: 0, signal: 9 });
  assert.equal((await c.link.event()).fields["code"], 137);
  await c.gone();
});

test("an idle monitor keeps little memory of its own", async (t) => {
  const c = await started(t, "head -c 1000000 /dev/zero; exec sleep 1000");
  const smaps = () => readFileSync(`/proc/${String(c.created["monitorPid"])}/smaps_rollup`, "utf8");
  if (basename(bosun) !== "bosun") return t.skip("a sanitizer's memory is not bosun's");
  await until("it has given back what it needed", () => Number(/^Pss_Anon:\s+(\d+)/m.exec(smaps())?.[1]) <= 32, 60_000);
});
