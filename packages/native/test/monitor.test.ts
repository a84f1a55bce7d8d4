/** The life of a monitor and its container: phases, record, events; and what else speaks to its socket. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmdirSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { constants } from "node:os";
import { basename, join } from "node:path";
import { test } from "node:test";
import { PLAN_VERSION, STREAM } from "@berth/kernel";
import { bosun } from "./bosun.ts";
import {
  alive,
  attach,
  CLONE,
  container,
  exec,
  frame,
  Link,
  plan,
  runToEnd,
  serve,
  sh,
  started,
  until,
} from "./client.ts";

const { EPROTO, ENOENT, ESRCH, EALREADY } = constants.errno;
const [CREATED, RUNNING, EXITED] = [1, 2, 3] as const;

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
    const asking = await c.another();
    const told = oom ? asking.ask("oom", "report") : asking.refused(ESRCH, "oom");
    assert.equal((await runToEnd(c))["oom"], oom);
    assert.equal(c.record()["oom"], String(oom));
    await told;
  }
});

test("a counter that grew is known also if its cgroup goes before the container's end", async (t) => {
  const mount = /^\S+ \S+ \S+ \/ (\S+) .* - cgroup2 /m.exec(readFileSync("/proc/self/mountinfo", "utf8"))?.[1];
  if (mount === undefined) return t.skip("no cgroup2 is mounted");
  const group = mkdtempSync(join(mount, "berth-test-"));
  t.after(() => existsSync(group) && rmdirSync(group));
  // Any counter of a cgroup's does: "populated 0" becomes "populated 1".
  const c = await (
    await serve(t)
  ).container(sh("read x"), {
    stdin: 1,
    stdinOnce: 1,
    oomFile: join(group, "cgroup.events"),
    oomKey: "populated",
  });
  await c.link.ask("watch", "state");
  await c.link.ask("start", "state");
  const told = (await c.another()).ask("oom", "report");
  const member = spawn("sleep", ["1000"]);
  const gone = once(member, "exit");
  writeFileSync(join(group, "cgroup.procs"), String(member.pid));
  await told; // while all of it lives
  member.kill("SIGKILL");
  await gone;
  rmdirSync(group);
  (await attach(c, 0, STREAM.stdin)).socket.end();
  assert.equal((await c.link.event()).fields["oom"], 1);
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
  // But for its stack, which holds the environment of whoever runs the test.
  const own = (): number =>
    readFileSync(`/proc/${String(c.created["monitorPid"])}/smaps`, "utf8")
      .split(/^(?=[0-9a-f]+-[0-9a-f]+ )/m)
      .filter((mapping) => !/^.*\[stack\]$/m.test(mapping))
      .reduce((sum, mapping) => sum + Number(/^Anonymous:\s+(\d+)/m.exec(mapping)?.[1] ?? 0), 0);
  if (basename(bosun) !== "bosun") return t.skip("a sanitizer's memory is not bosun's");
  await until("it has given back what it needed", () => own() <= 28);
});
