/** Further processes in a container: answered at once, or with streams of their own. */
import assert from "node:assert/strict";
import { existsSync, readFileSync, readdirSync } from "node:fs";
import { constants } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { STREAM } from "@berth/kernel";
import { alive, attach, CLONE, collect, exec, openDescriptors, plan, shProcess, started, until } from "./client.ts";

const { ECANCELED, ETIMEDOUT, ENOENT, ESRCH } = constants.errno;

const syncExec = (script: string, more: object = {}) => ({
  sync: 1,
  limit: 1 << 20,
  drainMs: 200,
  plan: shProcess(script),
  ...more,
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
  // Reaped: a zombie's session is there yet, and who waits for that is answered.
  await until(
    "it does not wait for streams that nobody can attach",
    () => !existsSync(`/proc/${Number(orphan["pid"])}`),
  );
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
