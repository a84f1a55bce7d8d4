/** A creation that is broken off, and deaths at any moment: a container that can be reached, or nothing. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { existsSync, mkdtempSync, readFileSync, readdirSync } from "node:fs";
import { constants } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import {
  alive,
  CLONE,
  container,
  exec,
  Link,
  ownProcesses,
  parseRecord,
  plan,
  serve,
  serveDirectory,
  sh,
  startServe,
  until,
} from "./client.ts";
import { parseLog } from "./cri-log.ts";

const { ECANCELED, ETIMEDOUT } = constants.errno;

test("a creation that hangs is undone at its time-out, by cancel, with the connection and with serve", async (t) => {
  const directory = serveDirectory(t);
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
  const directory = serveDirectory(t);
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
  const directory = serveDirectory(t);
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
  const directory = serveDirectory(t);
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
