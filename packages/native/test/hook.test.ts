/** Orders that run programs while a process is made, and the process that is set aside for them. */
import assert from "node:assert/strict";
import { chmodSync, readFileSync, readlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import type { Order } from "@berth/kernel";
import { carryOut, NEW, NO_SLOT, O, order, privateMounts, refuse, scratch, shell, succeed } from "./bosun.ts";
import { until } from "./client.ts";

const clone = (flags = 0n, maps = { uidMap: "", gidMap: "" }) =>
  order("clone", { flags, cgroupSlot: NO_SLOT, ...maps, denySetgroups: 0 });
const park = order("park", {});
const aside = order("aside", {});

interface Hook {
  path?: string;
  argv?: string[];
  env?: string[];
  inheritEnv?: number;
  timeoutMs?: number;
  state?: string[];
}
const fields = (script: string, more: Hook = {}) => ({
  path: "/bin/sh",
  argv: ["sh", "-c", script],
  env: ["PATH=/usr/bin:/bin"],
  inheritEnv: 0,
  timeoutMs: 0,
  state: ["", ""],
  ...more,
});
const hook = (script: string, more?: Hook): Order => order("hook", fields(script, more));
const runtimeHook = (script: string, more?: Hook): Order => order("runtime_hook", fields(script, more));

test("hook: its state, its environment, its own session", async (t) => {
  const out = join(scratch(t), "out");
  await succeed([
    hook(`cat >${out}; echo "$A-$B" >>${out}; ps -o sid= -p $$ | tr -d ' ' >>${out}; echo $$ >>${out}`, {
      env: ["PATH=/usr/bin:/bin", "A=1", "B=2"],
      state: ['{"pid":', ',"again":', "}\n"],
    }),
  ]);
  const [state = "", variables, session, pid] = readFileSync(out, "utf8").split("\n");
  const { pid: own, again } = JSON.parse(state) as { pid: number; again: number };
  assert.ok(own > 1 && own === again);
  assert.equal(variables, "1-2");
  assert.equal(session, pid);
});

test("hook: bosun's own environment where it is asked for, else only what is given", async (t) => {
  const out = join(scratch(t), "out");
  const plan = (inheritEnv: number) => [hook(`env >${out}`, { inheritEnv })];
  await carryOut(plan(1), { wrapper: ["/usr/bin/env", "BERTH_TEST_MARK=here"] });
  assert.match(readFileSync(out, "utf8"), /^BERTH_TEST_MARK=here$/m);
  await carryOut(plan(0), { wrapper: ["/usr/bin/env", "BERTH_TEST_MARK=here"] });
  assert.doesNotMatch(readFileSync(out, "utf8"), /BERTH_TEST_MARK/);
});

test("hook: a failure says how, and the end of what was said", async () => {
  await refuse([hook("echo one >&2; echo two; exit 3")], "EIO", /^\/bin\/sh ended with status 3: one two$/);
  await refuse([hook("kill -TERM $$")], "EIO", /^\/bin\/sh ended by signal 15 \(terminated\): $/);
  await refuse([hook("", { path: "/no/such" })], "EIO", /^\/no\/such ended with status 127: \/no\/such: No such file/);
  const long = await carryOut([hook("i=0; while [ $i -lt 300 ]; do echo line$i; i=$((i+1)); done; exit 1")]);
  assert.match(long.detail, /status 1: .*line299$/);
  assert.ok(long.detail.length < 512);
});

test("hook: killed with its session when its time is up, and not waited for by what it leaves", async (t) => {
  const out = join(scratch(t), "pid");
  const began = Date.now();
  await refuse(
    [hook(`sleep 60 & echo $! >${out}; wait`, { timeoutMs: 1500 })],
    "ETIMEDOUT",
    /did not end within 1500 ms/,
  );
  assert.ok(Date.now() - began < 50_000);
  const child = Number(readFileSync(out, "utf8"));
  await until("its children have gone with it", () => !isRunning(child));
  const left = Date.now();
  await succeed([hook(`sleep 30 & exit 0`, { timeoutMs: 60_000 })]);
  assert.ok(Date.now() - left < 25_000, "a child that holds its output open is not waited for");
});

function isRunning(pid: number): boolean {
  try {
    return !/^State:\t[ZX]/m.test(readFileSync(`/proc/${pid}/status`, "utf8"));
  } catch {
    return false;
  }
}

test("hook: one that does not read a state larger than a pipe does no harm", async () => {
  await succeed([hook("exit 0", { state: ["x".repeat(200_000), "y"] })]);
  await succeed([hook(`[ "$(wc -c)" -gt 200000 ]`, { state: ["x".repeat(200_000), "y"] })]);
});

test("runtime_hook runs where it was set aside, with the container's number there", async (t) => {
  const out = join(scratch(t), "out");
  const own = ["net", "uts", "pid"].map((name) => readlinkSync(`/proc/self/ns/${name}`));
  const outcome = await succeed([
    aside,
    order("unshare", { flags: NEW.uts }),
    clone(NEW.pid | NEW.net | NEW.mnt),
    runtimeHook(`cat >${out}; for n in net uts pid; do readlink /proc/self/ns/$n; done >>${out}`, {
      state: ["", "\n"],
    }),
    runtimeHook(`echo again >>${out}`),
    park,
    shell("readlink /proc/self/ns/net >&2"),
  ]);
  const [pid, ...namespaces] = readFileSync(out, "utf8").trim().split("\n");
  assert.ok(Number(pid) > 1, "as the host counts");
  assert.deepEqual(namespaces.slice(0, 3), own);
  assert.equal(namespaces[3], "again");
  assert.notEqual(outcome.said.trim(), own[0]);
});

test("idmap_aside maps owners from where it was set aside", async (t) => {
  const dir = scratch(t);
  chmodSync(dir, 0o755);
  writeFileSync(join(dir, "file"), "");
  const maps = { uidMap: "0 100000 65536\n", gidMap: "0 100000 65536\n" };
  const outcome = await succeed([
    ...privateMounts,
    aside,
    order("userns", { slot: 2, ...maps }),
    clone(NEW.user | NEW.mnt, maps),
    order("open", { slot: 0, path: dir, flags: O.PATH | O.DIRECTORY }),
    order("clone_in", { slot: 1, root: 0, path: "/", recursive: 0 }),
    order("idmap_aside", { slot: 1, usernsSlot: 2, recursive: 0 }),
    order("attach_host", { slot: 1, target: dir }),
    shell(`stat -c %u:%g ${join(dir, "file")} >&2`),
  ]);
  assert.equal(outcome.said, "0:0\n", "of the namespace, which sees the host's root as its own");
  await refuse([order("idmap_aside", { slot: 1, usernsSlot: 2, recursive: 0 })], "EBADF", /slot 1 is empty/);
});

test("runtime_hook: its failure is the order's", async () => {
  await refuse([aside, clone(), runtimeHook("echo no >&2; exit 9")], "EIO", /^\/bin\/sh ended with status 9: no$/);
  await refuse([clone(), runtimeHook("true")], "EINVAL", /^no process is set aside$/);
  await refuse([aside, aside], "EINVAL", /is set aside already/);
  await refuse([order("seccomp_listener", { path: "/x", state: ["", ""] })], "EINVAL", /^no process is set aside$/);
});

test("a process set aside ends with what it is there for", async (t) => {
  const out = join(scratch(t), "pid");
  writeFileSync(out, "");
  const outcome = await succeed([
    aside,
    clone(),
    runtimeHook(`grep PPid /proc/$$/status | tr -dc 0-9 >${out}`),
    park,
    shell(`grep Name /proc/$(cat ${out})/status >&2`),
  ]);
  void outcome;
  const pid = Number(readFileSync(out, "utf8"));
  await until("it has ended", () => !isRunning(pid));
});

test("a listener's socket that is not there is found out before the filter is in force", async (t) => {
  const allow = Buffer.from("060000000000ff7f", "hex");
  const path = join(scratch(t), "nobody.sock");
  const filter = order("seccomp", { flags: 0n, filter: allow });
  await refuse(
    [aside, clone(), order("seccomp_listener", { path, state: ["", ""] }), filter, shell("true")],
    "ENOENT",
    /^connect .*nobody\.sock$/,
    2,
  );
});
