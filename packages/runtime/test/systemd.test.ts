/** --systemd-cgroup where systemd is PID 1: the container's cgroup is a scope, with its limits known to both. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import type { oci } from "@berth/spec";
import { withLinux } from "./support/machine.ts";
import { BERTH_RUNC, Workshop, whyNoRuntime } from "./support/runtimes.ts";

const why = whyNoRuntime() ?? (existsSync("/run/systemd/system") ? undefined : "systemd is not this machine's init");
const skip = why === undefined ? {} : { skip: why };
let shop: Workshop;
before(() => {
  if (why === undefined) shop = new Workshop({ path: BERTH_RUNC });
});
after(() => {
  if (why === undefined) shop[Symbol.dispose]();
});

/** For what leaves a process behind, which would hold the outputs open. */
const quiet = (...args: readonly string[]) => shop.quiet("--systemd-cgroup", ...args);
const runtime = (...args: readonly string[]) => shop.run("--systemd-cgroup", ...args);
/** systemd's word on a unit's properties. */
function show(unit: string, ...properties: readonly string[]): Record<string, string> {
  const { stdout } = spawnSync("systemctl", ["show", unit, `--property=${properties.join(",")}`], { encoding: "utf8" });
  return Object.fromEntries(
    stdout
      .trim()
      .split("\n")
      .map((line) => [line.slice(0, line.indexOf("=")), line.slice(line.indexOf("=") + 1)]),
  );
}
const place = (id: string, change: Partial<oci.Linux> = {}) =>
  withLinux({
    cgroupsPath: `berth-test.slice:berth:${id}`,
    resources: { memory: { limit: 64 << 20 }, pids: { limit: 30 }, cpu: { quota: 50_000, period: 100_000 } },
    ...change,
  });
const scope = (id: string) => `/berth.slice/berth-test.slice/berth-${id}.scope`;
const file = (id: string, name: string) => readFileSync(join("/sys/fs/cgroup", scope(id), name), "utf8").trim();

test("a scope: its slice, its limits, changed and removed with the container", skip, () => {
  const id = shop.id();
  const unit = `berth-${id}.scope`;
  assert.equal(quiet("create", "--bundle", shop.bundle("exec sleep 60", place(id)), id), 0);
  assert.deepEqual(show(unit, "Slice", "Delegate", "MemoryMax", "TasksMax", "CPUQuotaPerSecUSec", "ActiveState"), {
    Slice: "berth-test.slice",
    Delegate: "yes",
    MemoryMax: String(64 << 20),
    TasksMax: "30",
    CPUQuotaPerSecUSec: "500ms",
    ActiveState: "active",
  });
  assert.equal(show(unit, "ControlGroup")["ControlGroup"], scope(id));
  assert.equal(file(id, "memory.max"), String(64 << 20));
  const { pid } = JSON.parse(runtime("state", id).stdout) as { pid: number };
  assert.equal(file(id, "cgroup.procs"), String(pid), "and nobody else is in it");
  assert.equal(runtime("start", id).status, 0);
  const updated = runtime("update", "--memory", "32m", "--pids-limit", "20", id);
  assert.equal(updated.status, 0, updated.stderr);
  assert.deepEqual(show(unit, "MemoryMax", "TasksMax"), { MemoryMax: String(32 << 20), TasksMax: "20" });
  assert.equal(file(id, "pids.max"), "20");
  assert.match(runtime("exec", id, "cat", "/proc/self/cgroup").stdout, /^0::\/$/m);
  assert.equal(runtime("delete", "--force", id).status, 0);
  assert.equal(show(unit, "LoadState")["LoadState"], "not-found");
  assert.equal(existsSync(join("/sys/fs/cgroup", scope(id))), false);
});

test("the unit of a container that ends in the foreground is gone too", skip, async () => {
  const id = shop.id();
  const ran = runtime("run", "--bundle", shop.bundle("exit 3", place(id)), id);
  assert.equal(ran.status, 3, ran.stderr);
  // systemd hears of the empty cgroup, and then collects the unit.
  for (let tries = 0; tries < 1000 && show(`berth-${id}.scope`, "LoadState")["LoadState"] !== "not-found"; tries++)
    await new Promise((resolve) => setTimeout(resolve, 50));
  assert.equal(show(`berth-${id}.scope`, "LoadState")["LoadState"], "not-found");
});

test("a creation that fails leaves no unit, and a name that is taken is said", skip, () => {
  const id = shop.id();
  const failing = shop.bundle("true", (spec) => ({
    ...place(id)(spec),
    hooks: { createRuntime: [{ path: "/bin/false" }] },
  }));
  const failed = runtime("create", "--bundle", failing, id);
  assert.equal(failed.status, 1);
  assert.match(failed.stderr, /createRuntime hook #0/);
  assert.equal(show(`berth-${id}.scope`, "LoadState")["LoadState"], "not-found");
  const bundle = shop.bundle("exec sleep 60", place("taken"));
  const [one, other] = [shop.id(), shop.id()];
  assert.equal(quiet("create", "--bundle", bundle, one), 0);
  const second = runtime("create", "--bundle", bundle, other);
  assert.equal(second.status, 1);
  assert.match(second.stderr, /systemd: .*UnitExists/);
  assert.equal(JSON.parse(runtime("state", one).stdout).status, "created", "the first one is as it was");
  assert.equal(runtime("delete", "--force", one).status, 0);
});

test("a cgroupsPath that is no slice:prefix:name is refused", skip, () => {
  const bundle = shop.bundle("true", withLinux({ cgroupsPath: "/plain" }));
  const { status, stderr } = runtime("create", "--bundle", bundle, shop.id());
  assert.equal(status, 1);
  assert.match(stderr, /cgroupsPath \\"\/plain\\" is not \\"slice:prefix:name\\"/);
});
