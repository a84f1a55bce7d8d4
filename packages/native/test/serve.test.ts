import assert from "node:assert/strict";
import { once } from "node:events";
import { constants } from "node:os";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  readlinkSync,
  rmSync,
  rmdirSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { PLAN_VERSION } from "@berth/kernel";
import {
  alive,
  connectTo,
  ENV,
  frame,
  Link,
  openDescriptors,
  plan,
  serve,
  serveDirectory,
  sh,
  startServe,
  until,
} from "./client.ts";

const { EPROTO, ECANCELED, ETIMEDOUT, ENOENT, EACCES, EEXIST, EINVAL } = constants.errno;

/** The command lines of the processes that have `marker` in theirs. */
function running(marker: string): string[] {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .map((pid) => {
      try {
        return alive(Number(pid)) ? readFileSync(`/proc/${pid}/cmdline`, "latin1") : "";
      } catch {
        return "";
      }
    })
    .filter((line) => line.includes(marker));
}

const spawnValues = (script: string, more: object = {}) => ({
  argv: ["/bin/sh", "-c", script],
  env: ENV,
  limit: 1 << 20,
  ...more,
});
let marks = 0;
/** A number of seconds to sleep that nobody else sleeps. */
const uniqueSleep = () => `1000.${process.pid}${++marks}`;

test("a plan is run in a worker and its outputs come back", async (t) => {
  const s = await serve(t);
  const link = await s.link();
  writeFileSync(join(s.directory, "file"), "content");
  const reply = await link.ask("run", "report", {
    plan: plan(
      ["open", { slot: 0, path: s.directory, flags: 0o10000000n }],
      ["read_in", { root: 0, path: "file", max: 100 }],
    ),
  });
  assert.match(String(reply["outputs"]), /content/);
  const failing = await link.call("run", { plan: plan(["mkdir", { path: join(s.directory, "file"), mode: 0o755 }]) });
  assert.equal(failing.fields["errno"], EEXIST);
  assert.equal(failing.fields["order"], 0);
  await link.end();
});

test("a worker is killed at its time-out, by cancel and with its connection; others go on", async (t) => {
  const s = await serve(t);
  const link = await s.link();
  const fifo = join(s.directory, "fifo");
  await link.ask("spawn", "spawned", { argv: ["mkfifo", fifo], env: ENV });
  const hang = plan(["open", { slot: 0, path: fifo, flags: 0n }]); // blocks until there is a writer
  const late = link.refused(ETIMEDOUT, "run", { plan: hang }, 150);
  const cancelled = link.nextId;
  const gone = link.refused(ECANCELED, "run", { plan: hang });
  await link.ask("run", "report", { plan: plan(["mkdir", { path: join(s.directory, "beside"), mode: 0o700 }]) });
  link.send("cancel", { id: cancelled });
  await gone;
  await late;
  const other = await s.link();
  other.send("run", { plan: hang });
  const workers = () =>
    readdirSync("/proc").filter((pid) => {
      try {
        return (
          readFileSync(`/proc/${pid}/stat`, "latin1").includes(`(bosun-worker) `) &&
          readFileSync(`/proc/${pid}/stat`, "latin1").includes(` ${s.process.pid} `)
        );
      } catch {
        return false;
      }
    });
  await until("the worker is there", () => workers().length === 1);
  await other.end();
  await until("no worker is left", () => workers().length === 0);
  await link.end();
});

test("a worker that cannot die is abandoned at its time-out", async (t) => {
  const freezer = "/sys/fs/cgroup/freezer";
  if (!existsSync(join(freezer, "tasks")))
    return t.skip("needs the v1 freezer, in which a frozen process does not die of SIGKILL");
  const s = await serve(t);
  const link = await s.link();
  const fifo = join(s.directory, "fifo"),
    group = join(freezer, `bosun-test-${process.pid}`);
  await link.ask("spawn", "spawned", { argv: ["mkfifo", fifo], env: ENV });
  mkdirSync(group);
  try {
    const late = link.refused(
      ETIMEDOUT,
      "run",
      { plan: plan(["join_cgroup", { path: group }], ["open", { slot: 0, path: fifo, flags: 0n }]) },
      1500,
    );
    await until("it is in the group", () => readFileSync(join(group, "tasks"), "utf8") !== "");
    writeFileSync(join(group, "freezer.state"), "FROZEN");
    await link.ask("run", "report", { plan: plan() });
    await late;
    assert.notEqual(readFileSync(join(group, "tasks"), "utf8"), "");
    await link.ask("run", "report", { plan: plan() });
  } finally {
    writeFileSync(join(group, "freezer.state"), "THAWED");
    await until("it is reaped", () => readFileSync(join(group, "tasks"), "utf8") === "");
    rmdirSync(group);
  }
  await link.end();
});

test("spawn: status, signal, outputs, stdin, environment, directory, limit", async (t) => {
  const s = await serve(t);
  const link = await s.link();
  const ok = await link.ask(
    "spawn",
    "spawned",
    spawnValues("cat; pwd; echo $A >&2; exit 7", { env: ["A=1", ...ENV], cwd: "/usr", stdin: "hello " }),
  );
  assert.deepEqual(
    [ok["status"], ok["signal"], String(ok["stdout"]), String(ok["stderr"]), ok["truncated"]],
    [7, 0, "hello /usr\n", "1\n", 0],
  );
  const killed = await link.ask("spawn", "spawned", spawnValues("kill -SEGV $$"));
  assert.deepEqual([killed["status"], killed["signal"]], [128 + 11, 11]);
  const long = await link.ask(
    "spawn",
    "spawned",
    spawnValues("head -c 1000000 /dev/zero; head -c 50 /dev/zero >&2", { limit: 1000 }),
  );
  assert.deepEqual(
    [(long["stdout"] as Buffer).length, (long["stderr"] as Buffer).length, long["truncated"], long["status"]],
    [1000, 50, 1, 0],
  );
  // More stdin than a pipe holds, to a program that does not read it, and to one that does.
  const big = Buffer.alloc(3_000_000, "x");
  assert.equal((await link.ask("spawn", "spawned", spawnValues("exit 0", { stdin: big })))["status"], 0);
  assert.equal(
    String((await link.ask("spawn", "spawned", spawnValues("wc -c", { stdin: big })))["stdout"]).trim(),
    "3000000",
  );
  await link.end();
});

test("spawn: what cannot be executed is named", async (t) => {
  const s = await serve(t);
  const link = await s.link();
  assert.equal(await link.refused(ENOENT, "spawn", { argv: ["/no/such"] }), "exec /no/such");
  assert.equal(await link.refused(ENOENT, "spawn", { argv: ["no-such-program"], env: ENV }), "exec no-such-program");
  assert.equal(await link.refused(EACCES, "spawn", { argv: ["/etc/passwd"] }), "exec /etc/passwd");
  assert.equal(await link.refused(ENOENT, "spawn", { argv: ["/bin/true"], cwd: "/no/such/dir" }), "chdir /no/such/dir");
  await link.refused(EINVAL, "spawn", { argv: [] });
  await link.end();
});

test("spawn: a clean process: own session, default signals, three descriptors", async (t) => {
  const s = await serve(t);
  const link = await s.link();
  const out = String(
    (
      await link.ask(
        "spawn",
        "spawned",
        spawnValues("cat /proc/self/status; ls /proc/self/fd | wc -l; cut -d' ' -f5,6 /proc/$$/stat; echo $$"),
      )
    )["stdout"],
  );
  assert.match(out, /SigBlk:\t0{16}\nSigIgn:\t0{16}/);
  const [fds, session, pid] = out.trimEnd().split("\n").slice(-3);
  assert.equal(fds, "4"); // 0, 1, 2 and the directory that ls reads
  assert.equal(session, `${pid} ${pid}`);
  await link.end();
});

test("spawn: the whole process group dies at the time-out, by cancel, with the connection", async (t) => {
  const s = await serve(t);
  const link = await s.link();
  const script = () => {
    const n = uniqueSleep();
    return { mark: n, values: spawnValues(`sleep ${n} & sleep ${n}; wait`) };
  };
  const a = script(),
    b = script(),
    c = script();
  await link.refused(ETIMEDOUT, "spawn", a.values, 150);
  await until("it is gone", () => running(a.mark).length === 0);
  const id = link.nextId;
  const cancelled = link.refused(ECANCELED, "spawn", b.values);
  await until("it runs", () => running(`sleep\0${b.mark}`).length === 2);
  link.send("cancel", { id });
  await cancelled;
  await until("it is gone", () => running(b.mark).length === 0);
  link.send("spawn", c.values);
  await until("it runs", () => running(`sleep\0${c.mark}`).length === 2);
  await link.end();
  await until("it is gone", () => running(c.mark).length === 0);
});

test("spawn: a background process that keeps the output open is waited for, up to the time-out", async (t) => {
  const s = await serve(t);
  const link = await s.link();
  const mark = uniqueSleep();
  const start = Date.now();
  await link.refused(ETIMEDOUT, "spawn", spawnValues(`sleep ${mark} & exit 0`), 200);
  assert.ok(Date.now() - start >= 190);
  await until("it is gone", () => running(mark).length === 0);
  const done = await link.ask("spawn", "spawned", spawnValues("(sleep 0.1; echo late) & exit 0"));
  assert.equal(String(done["stdout"]), "late\n");
  await link.end();
});

test("the end of stdin ends programs and workers, not containers; the socket is gone", async (t) => {
  const directory = serveDirectory(t);
  const s = await startServe(directory);
  const c = await s.container(sh("exec sleep 1000"));
  await c.link.ask("start", "state");
  const link = await s.link();
  const mark = uniqueSleep();
  link.send("spawn", spawnValues(`sleep ${mark} & sleep ${mark}`));
  await until("it runs", () => running(`sleep\0${mark}`).length === 2);
  await s.stop(); // it waits for nothing that can be killed
  assert.equal(s.process.exitCode, 0);
  assert.deepEqual(running(mark), []);
  assert.equal(existsSync(s.socket), false);
  assert.equal((await c.link.ask("query", "state"))["phase"], 2);
  await c.link.ask("watch", "state");
  await c.link.ask("kill", "report", { session: 0, signal: 9 });
  assert.deepEqual([(await c.link.event()).fields["code"]], [137]);
  await c.gone();
});

test("kill -9 of serve takes its programs and workers along, and a successor starts on the stale socket", async (t) => {
  const directory = mkdtempSync(join(tmpdir(), "bosun-serve-"));
  t.after(() => rmSync(directory, { recursive: true, force: true }));
  const first = await startServe(directory);
  const link = await first.link();
  const mark = uniqueSleep();
  link.send("spawn", { argv: ["/bin/sleep", mark], env: ENV });
  await until("it runs", () => running(`sleep\0${mark}`).length === 1);
  first.process.kill("SIGKILL");
  await once(first.process, "exit");
  await until("the program is gone", () => running(mark).length === 0);
  assert.equal(existsSync(first.socket), true);
  const second = await startServe(directory);
  const again = await second.link();
  await again.ask("run", "report", { plan: plan() });
  await again.end();
  await second.stop();
});

test("a second serve on a live socket is refused; one that follows a dying one waits for it", async (t) => {
  const directory = mkdtempSync(join(tmpdir(), "bosun-serve-"));
  t.after(() => rmSync(directory, { recursive: true, force: true }));
  const first = await startServe(directory);
  await assert.rejects(startServe(directory), /another serve is at .*serve\.sock/);
  assert.equal(statSync(first.socket).mode & 0o777, 0o600);
  const link = await first.link();
  await link.ask("run", "report", { plan: plan() });
  const next = startServe(directory);
  await first.stop();
  const second = await next;
  await (await second.link()).end();
  await second.stop();
  await link.end();
});

test("a socket path longer than sun_path", async (t) => {
  const directory = join(mkdtempSync(join(tmpdir(), "bosun-serve-")), "d".repeat(120));
  mkdirSync(directory);
  const s = await serve(t, directory);
  t.after(() => rmSync(join(directory, ".."), { recursive: true, force: true }));
  const c = await s.container(sh("exit 4"));
  await c.link.ask("watch", "state");
  await c.link.ask("start", "state");
  assert.equal((await c.link.event()).fields["code"], 4);
});

test("malformed frames close their own connection only, after EPROTO", async (t) => {
  const s = await serve(t);
  const good = await s.link();
  const big = Buffer.alloc(16);
  big.writeUInt32LE((64 << 20) + 1, 0);
  big.writeUInt16LE(12, 8);
  const reserved = frame("hello", 1, { version: PLAN_VERSION });
  reserved[10] = 1;
  const garbage = [
    Buffer.from("GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
    big,
    reserved,
    frame("run", 1, { plan: plan() }),
    frame("hello", 1, { version: 999 }),
    Buffer.concat([frame("hello", 1, { version: PLAN_VERSION }), frame("start", 2)]),
    Buffer.concat([frame("hello", 1, { version: PLAN_VERSION }), frame("run", 2, { plan: plan() }).fill(0xff, 16, 20)]),
    Buffer.concat([
      frame("hello", 1, { version: PLAN_VERSION }),
      Buffer.from([0, 0, 0, 0, 9, 0, 0, 0, 99, 0, 0, 0, 0, 0, 0, 0]),
    ]),
  ];
  for (const bytes of garbage) {
    const bad = await Link.open(s.socket);
    bad.socket.write(bytes);
    await until("it is closed", () => bad.closed);
    const report = [...bad.strays, ...bad.events].at(-1);
    assert.equal(report?.name, "report");
    assert.equal(report.fields["errno"], EPROTO, String(report.fields["detail"]));
    await bad.end();
  }
  await good.ask("run", "report", { plan: plan() });
  await good.end();
});

test("random bytes and cut frames do not disturb others", async (t) => {
  const s = await serve(t);
  const good = await s.link();
  let seed = 12345;
  const random = () => (seed = (seed * 1103515245 + 12345) & 0x7fffffff) >>> 16;
  for (let i = 0; i < 60; i++) {
    const bad = connectTo(s.socket);
    await once(bad, "connect");
    bad.on("error", () => {});
    const whole = Buffer.concat([
      frame("hello", 1, { version: PLAN_VERSION }),
      frame("spawn", 2, spawnValues("exit 0")),
    ]);
    const bytes = Buffer.from(whole);
    for (let j = 0; j < 4; j++) bytes[random() % bytes.length] = random() & 0xff;
    bad.end(bytes.subarray(0, random() % bytes.length));
    bad.resume();
    if (!bad.closed) await once(bad, "close");
  }
  await good.ask("run", "report", { plan: plan() });
  await good.end();
});

test("a malformed plan is an answer, not an end", async (t) => {
  const s = await serve(t);
  const link = await s.link();
  const reply = await link.call("run", { plan: Buffer.from("nonsense") });
  assert.equal(reply.name, "report");
  assert.notEqual(reply.fields["errno"], 0);
  await link.ask("run", "report", { plan: plan() });
  await link.end();
});

test("a reader that does not read holds up nobody else, and gets all in the end", async (t) => {
  const s = await serve(t);
  const slow = await s.link(),
    other = await s.link();
  slow.socket.pause();
  const answers = Array.from({ length: 20 }, () => slow.call("spawn", spawnValues("head -c 1000000 /dev/zero")));
  for (let i = 0; i < 20; i++) await other.ask("run", "report", { plan: plan() });
  slow.socket.resume();
  for (const answer of await Promise.all(answers)) assert.equal((answer.fields["stdout"] as Buffer).length, 1_000_000);
  await slow.end();
  await other.end();
});

test("clients that come and go leave no descriptor and no child", async (t) => {
  const s = await serve(t);
  const pid = s.process.pid as number;
  await (await s.link()).end();
  const before = openDescriptors(pid).length;
  for (let i = 0; i < 30; i++) {
    const link = await s.link();
    link.send("spawn", spawnValues("sleep 5"));
    link.send("run", { plan: plan() });
    link.send("monitor", { dir: s.directory, plan: Buffer.from("bad") });
    await link.end();
  }
  await until("all descriptors are closed", () => openDescriptors(pid).length <= before);
  const children = () =>
    readdirSync("/proc").filter((name) => {
      try {
        return readFileSync(`/proc/${name}/stat`, "latin1").split(") ")[1]?.split(" ")[1] === String(pid);
      } catch {
        return false;
      }
    });
  await until("no child is left", () => children().length === 0);
});

test("the near-empty mount namespace has three directories and is read-only", async (t) => {
  const s = await serve(t);
  const namespaces = openDescriptors(s.process.pid as number).filter((target) => target.startsWith("mnt:"));
  assert.equal(namespaces.length, 1);
  assert.notEqual(namespaces[0], readlinkSync("/proc/self/ns/mnt"));
  const link = await s.link();
  const out = join(s.directory, "list");
  writeFileSync(out, "");
  // A worker's plan: enter it and read back what is mounted there, through a descriptor that was opened before.
  const reply = await link.ask("run", "report", {
    plan: plan(
      ["enter_empty_mounts"],
      ["open", { slot: 1, path: "/", flags: 0o10000000n }],
      ["read_in", { root: 1, path: "proc/mounts", max: 4096 }],
    ),
  });
  const mounts = String(reply["outputs"]);
  assert.match(mounts, /tmpfs \/ tmpfs ro,/);
  assert.match(mounts, /proc \/proc proc /);
  assert.match(mounts, /sysfs \/sys sysfs /);
  assert.equal(mounts.trimEnd().split("\n").length, 3);
  await link.ask("run", "report", {
    plan: plan(["enter_empty_mounts"], ["open", { slot: 1, path: "/rootfs", flags: 0o200000n }]),
  });
  await link.refused(constants.errno.EROFS, "run", {
    plan: plan(["enter_empty_mounts"], ["mkdir", { path: "/x", mode: 0o755 }]),
  });
  await link.end();
});
