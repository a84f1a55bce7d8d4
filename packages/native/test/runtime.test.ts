/** The order that has another runtime make the container, with shell scripts in the runtime's place. */
import assert from "node:assert/strict";
import { constants } from "node:os";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { alive, type Container, ENV, plan, type PlanOrder, serve, type Serve, until } from "./client.ts";

const { ECHILD, ENOENT } = constants.errno;
const EXITED = 3;

const command = (script: string, more: object = {}): PlanOrder => [
  "runtime",
  { argv: ["/bin/sh", "-c", script], env: ENV, ...more },
];

/** `process` is left behind by create, and goes on when start has made the file go. */
const byRuntime = (s: Serve, process: string, start = "touch go"): Promise<Container> => {
  const at = `cd ${s.directory}; rm -f go;`;
  const body = `until [ -e ${s.directory}/go ]; do sleep 0.01; done; ${process}`;
  const create = `${at} (trap '' HUP; exec sh -c '${body}') & echo $! >${s.directory}/pid`;
  return s.container(
    plan(
      command(create, { stdio: 1, pidFile: join(s.directory, "pid") }),
      ["park"],
      command(`cd ${s.directory}; ${start}`),
    ),
    { subreaper: 1 },
  );
};

const parentOf = (pid: number): number =>
  Number(/^PPid:\t(\d+)$/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1]);

/** Of a line that a shell writes there. */
async function numberIn(path: string): Promise<number> {
  await until(`${path} is written`, () => existsSync(path) && readFileSync(path, "utf8").endsWith("\n"));
  return Number(readFileSync(path, "utf8"));
}

async function end(c: Container): Promise<Record<string, unknown>> {
  const watcher = await c.another();
  await watcher.ask("watch", "state");
  const { fields } = await watcher.event();
  return fields;
}

test("what create leaves behind is the monitor's child: its output is logged and its end seen", async (t) => {
  const c = await byRuntime(await serve(t), "echo out; echo err >&2; exit 6");
  const pid = Number(c.created["pid"]);
  assert.equal(parentOf(pid), Number(c.created["monitorPid"]));
  const ended = end(c);
  await c.link.ask("start", "state");
  const fields = await ended;
  assert.deepEqual([fields["phase"], fields["code"]], [EXITED, 6]);
  assert.ok((fields["startedAt"] as bigint) <= (fields["finishedAt"] as bigint));
  await c.gone();
  assert.match(c.logged().toString(), /stdout F out\n/);
  assert.match(c.logged().toString(), /stderr F err\n/);
});

test("a process that ends before it was started takes the waiting stage with it", async (t) => {
  const c = await byRuntime(await serve(t), "exit 0");
  // Before the kill: the monitor ends with its process.
  const watcher = await c.another();
  await watcher.ask("watch", "state");
  const ended = watcher.event();
  await c.link.ask("kill", "report", { session: 0, signal: 9 });
  assert.deepEqual((await ended).fields["code"], 137);
  await c.gone();
});

test("a start that fails is told, and the process is still there to be ended", async (t) => {
  const c = await byRuntime(await serve(t), "exit 0", "exit 4");
  assert.equal(await c.link.refused(ECHILD, "start"), "it ended with status 4");
  await c.link.ask("kill", "report", { session: 0, signal: 9 });
  await c.gone();
});

test("a process in a container that already runs, made by exec", async (t) => {
  const s = await serve(t);
  const c = await byRuntime(s, "exec sleep 1000");
  await c.link.ask("start", "state");
  const pidFile = join(s.directory, "exec-pid");
  // As with a real runtime: what it leaves behind outlives it. A shell reaps a child of its own that is quicker.
  const script = `(while kill -0 $$ 2>/dev/null; do sleep 0.01; done; echo from exec; exit 8) & echo $! >${pidFile}`;
  const execed = await c.link.ask("exec", "execed", {
    sync: 1,
    limit: 1 << 20,
    drainMs: 200,
    plan: plan(command(script, { stdio: 1, pidFile })),
  });
  assert.deepEqual([execed["code"], String(execed["stdout"])], [8, "from exec\n"]);
  await c.link.ask("kill", "report", { session: 0, signal: 9 });
  await c.gone();
});

test("a further process that its runtime has reaped itself: it has ended, nobody can say how", async (t) => {
  const s = await serve(t);
  const c = await byRuntime(s, "exec sleep 1000");
  await c.link.ask("start", "state");
  const pidFile = join(s.directory, "exec-pid");
  const script = `(echo from exec; exit 8) & echo $! >${pidFile}; wait`;
  const request = { sync: 1, limit: 1 << 20, drainMs: 200, plan: plan(command(script, { stdio: 1, pidFile })) };
  const execed = await c.link.ask("exec", "execed", request);
  assert.deepEqual([execed["code"], String(execed["stdout"])], [255, "from exec\n"]);
  await c.link.ask("kill", "report", { session: 0, signal: 9 });
  await c.gone();
});

test("orphans below the monitor are reaped", async (t) => {
  const s = await serve(t);
  const c = await byRuntime(s, `(sleep 0.05 & echo $! >orphan) ; exec sleep 1000`);
  await c.link.ask("start", "state");
  const orphan = await numberIn(join(s.directory, "orphan"));
  // A zombie still has its directory in /proc.
  await until("the orphan is gone", () => !existsSync(`/proc/${orphan}`));
  await c.link.ask("kill", "report", { session: 0, signal: 9 });
  await c.gone();
});

async function refused(t: TestContext, errno: number, order: PlanOrder): Promise<string> {
  const s = await serve(t);
  const link = await s.link();
  const detail = await link.refused(errno, "monitor", { dir: s.directory, subreaper: 1, plan: plan(order, ["park"]) });
  assert.equal(existsSync(join(s.directory, "monitor.sock")), false);
  return detail;
}

test("a runtime that fails, is missing, or leaves no number: nothing is left", async (t) => {
  assert.equal(await refused(t, ECHILD, command("exit 3")), "it ended with status 3");
  const missing = ["runtime", { argv: ["/no/such/runtime"], env: ENV }] as const;
  assert.equal(await refused(t, ENOENT, missing), "exec /no/such/runtime");
  assert.equal(await refused(t, ENOENT, command("true", { pidFile: "/no/such/file" })), "read /no/such/file");
});

test("a creation that is ended in its middle ends the runtime too", async (t) => {
  const s = await serve(t);
  const link = await s.link();
  const order = command(`echo $$ >${s.directory}/runtime; sleep 1000`);
  const id = link.send("monitor", { dir: s.directory, subreaper: 1, plan: plan(order, ["park"]) });
  const pid = await numberIn(join(s.directory, "runtime"));
  link.send("cancel", { id });
  await until("the runtime is gone", () => !alive(pid));
});
