/** What CRIU is asked for, and the plans that have it asked: pure. */
import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, rmSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { encodePlan, type Plan } from "@berth/kernel";
import { CgroupsMode, decodeRequest, RequestType } from "@berth/spec/criu";
import type { oci } from "@berth/spec";
import { COMMANDS } from "../src/command/commands.ts";
import { commonFlags, pageServer, parentPath, statusFile } from "../src/command/criu.ts";
import { parseFlags, type Flags } from "../src/command/flags.ts";
import { planDump, withoutLinks } from "../src/criu/dump.ts";
import { planMountPoints, planRestore, type RestoreContext } from "../src/criu/restore.ts";
import { hybridHost, v2Host } from "@berth/kernel/testing/hosts";
import { shellSpec } from "./support/machine.ts";

const place = { images: "/images", work: "/work" };

function spec(): oci.Spec {
  const plain = shellSpec("true");
  return {
    ...plain,
    mounts: [
      { destination: "/proc", type: "proc", source: "proc" },
      { destination: "/dev", type: "tmpfs", source: "tmpfs" },
      { destination: "/dev/shm", type: "bind", source: "/pod/shm", options: ["rbind"] },
      { destination: "/etc/hosts", type: "bind", source: "/pod/hosts", options: ["bind", "ro"] },
      { destination: "/sys/fs/cgroup", type: "cgroup", source: "cgroup" },
      { destination: "/data", type: "ext4", source: "none", options: [] },
    ],
    hooks: { createRuntime: [{ path: "/bin/hook" }] },
    linux: {
      ...plain.linux,
      maskedPaths: ["/proc/kcore"],
      namespaces: [
        { type: "mount" },
        { type: "pid" },
        { type: "cgroup" },
        { type: "network", path: "/run/netns/pod" },
        { type: "ipc", path: "/run/ipc/pod" },
      ],
    },
  };
}

function restoration(change: Partial<RestoreContext> = {}): RestoreContext {
  return {
    id: "one",
    bundle: "/bundle",
    rootfs: { kind: "path", path: "/rootfs" },
    rootPlace: "/state/one/criu-root",
    cgroup: { path: "/one" },
    host: v2Host(),
    place,
    descriptors: ["/dev/null", "pipe:[12]", "pipe:[13]"],
    options: { manageCgroupsMode: "ignore", lsmProfile: "apparmor:x" },
    env: ["PATH=/sbin"],
    ...change,
  };
}

function asked(plan: Plan) {
  const order = plan.orders.find((one) => one.order === "criu");
  assert.ok(order?.order === "criu");
  const { type, opts } = decodeRequest(order.args.request);
  assert.ok(opts);
  return { order: order.args, type, opts };
}

test("a dump names what is not the container's own", async () => {
  const target = { pid: process.pid, spec: spec(), cgroup: "/one", freezer: "/sys/fs/cgroup/one", host: hybridHost() };
  const options = { tcpEstablished: true, parentPath: "../before", timeoutMs: 5000, manageCgroupsMode: "strict" };
  const plan = await planDump(target, place, options, []);
  const { order, type, opts } = asked(plan);
  assert.deepEqual([order.open, order.timeoutMs, order.until], [["/images", "/work"], 5000, ""]);
  assert.equal(type, RequestType.DUMP);
  assert.deepEqual(
    [opts.pid, opts.imagesDirFd, opts.workDirFd, opts.freezeCgroup, opts.parentImg, opts.trackMem],
    [process.pid, 100, 101, "/sys/fs/cgroup/one", "../before", true],
  );
  assert.deepEqual([opts.manageCgroupsMode, opts.configFile], [CgroupsMode.STRICT, "/etc/criu/runc.conf"]);
  assert.match(opts.external.join(), /^net\[\d+\]:extRootNetNS$/);
  const names = opts.extMnt.map(({ val }) => val);
  for (const name of ["/dev/shm", "/etc/hosts", "/sys/fs/cgroup/memory", "/sys/fs/cgroup/unified", "/dev/null"])
    assert.ok(names.includes(name), name);
  assert.ok(!names.includes("/proc") && !names.includes("/data"));
  assert.ok(encodePlan(plan).length > 0);
  const before = asked(await planDump(target, { images: "/images" }, { preDump: true }, []));
  assert.deepEqual([before.type, before.opts.extMnt, before.opts.workDirFd], [RequestType.PRE_DUMP, [], 0]);
});

test("a restore: its cgroup, its root in mounts of its own, hooks between, a stop before anything runs", () => {
  const { plan, warnings } = planRestore(spec(), restoration());
  assert.deepEqual(warnings, []);
  const names = plan.orders.map(({ order }) => order);
  const at = (name: string): number => names.indexOf(name as (typeof names)[number]);
  assert.deepEqual(names.slice(-4), ["runtime_hook", "criu_go_on", "park", "criu_go_on"]);
  assert.ok(at("aside") === 0 && at("unshare") < at("attach_host") && at("attach_host") < at("criu"));
  const joins = plan.orders.findIndex(({ args }) => "path" in args && args.path === "/sys/fs/cgroup/one/cgroup.procs");
  assert.ok(joins > 0 && joins < at("unshare"), "it is in its cgroup before a namespace of it is made");
  const { order, type, opts } = asked(plan);
  assert.deepEqual([type, order.until, order.stdio], [RequestType.RESTORE, "setup-namespaces", 1]);
  assert.deepEqual(order.open, ["/images", "/work", "/run/netns/pod"]);
  assert.deepEqual(
    opts.inheritFd.map(({ key, fd }) => [key, fd]),
    [
      ["extRootNetNS", 102],
      ["pipe:[12]", 1],
      ["pipe:[13]", 2],
    ],
  );
  assert.deepEqual(
    opts.joinNs.map(({ ns, nsFile }) => [ns, nsFile]),
    [["ipc", "/run/ipc/pod"]],
  );
  const sources = new Map(opts.extMnt.map(({ key, val }) => [key, val]));
  assert.deepEqual(
    ["/dev/shm", "/etc/hosts", "/dev/null"].map((key) => sources.get(key)),
    ["/pod/shm", "/pod/hosts", "/dev/null"],
  );
  assert.deepEqual([opts.root, opts.rstSibling, opts.lsmProfile], ["/state/one/criu-root", true, "apparmor:x"]);
  assert.deepEqual(
    opts.cgRoot.map(({ ctrl, path }) => [ctrl, path]),
    [["", "/one"]],
  );
  assert.ok(encodePlan(plan).length > 0);
});

test("a restore without hooks stops once; links in destinations have both names", () => {
  const { hooks: _hooks, ...plain } = spec();
  const resolved = new Map([["/etc/hosts", "/real/hosts"]]);
  const { plan } = planRestore(plain, restoration({ resolved, host: hybridHost(), options: {} }));
  const { order, opts } = asked(plan);
  assert.equal(order.until, "post-restore");
  const sources = new Map(opts.extMnt.map(({ key, val }) => [key, val]));
  assert.deepEqual([sources.get("/etc/hosts"), sources.get("/real/hosts")], ["/pod/hosts", "/pod/hosts"]);
  assert.ok(opts.cgRoot.some(({ ctrl, path }) => ctrl === "memory" && path === "/one"));
  assert.ok(!plan.orders.some(({ order: name, because }) => name === "unshare" && because?.includes("cgroup")));
  for (const type of ["cgroup", "mount"] as const) {
    const joined = { ...plain, linux: { ...plain.linux, namespaces: [{ type, path: "/there" }] } };
    assert.throws(() => planRestore(joined, restoration()), /criu cannot restore into a (cgroup|mount) namespace/);
  }
});

test("mount points are made where no file system that is restored holds them", () => {
  const { orders } = planMountPoints(spec(), restoration());
  const made = orders.flatMap((one) =>
    one.order === "mkdir_in" ? [one.args.path] : one.order === "move_mount" ? [one.args.target] : [],
  );
  assert.deepEqual(made, ["/proc", "/dev", "/etc/hosts", "/data"]);
});

test("links are followed as the root's", async () => {
  const root = mkdtempSync(join(tmpdir(), "berth-links-"));
  mkdirSync(join(root, "real/conf"), { recursive: true });
  symlinkSync("/real/conf", join(root, "conf"));
  symlinkSync("../../../real", join(root, "real/up"));
  symlinkSync("loop", join(root, "loop"));
  assert.equal(await withoutLinks(root, "/conf/a/b"), "/real/conf/a/b");
  assert.equal(await withoutLinks(root, "/real/up/conf"), "/real/conf");
  assert.equal(await withoutLinks(root, "/none/x"), "/none/x");
  await assert.rejects(withoutLinks(root, "/loop"), /too many symbolic links/);
  rmSync(root, { recursive: true });
});

test("flags are checked before anything is done", () => {
  const flagsOf = (...argv: string[]): Flags =>
    parseFlags(argv, COMMANDS.find(({ name }) => name === "checkpoint")?.flags ?? [], false).flags;
  assert.throws(() => commonFlags(flagsOf("--empty-ns", "pid")), /namespace "pid" is not supported/);
  assert.throws(() => parentPath(flagsOf("--parent-path", "/a"), "/images"), /--parent-path must be relative/);
  assert.throws(() => parentPath(flagsOf("--parent-path", "none"), "/images"), /invalid --parent-path/);
  assert.deepEqual(pageServer("10.0.0.1:27"), { address: "10.0.0.1", port: 27 });
  assert.deepEqual(pageServer("[::1]:27"), { address: "::1", port: 27 });
  assert.throws(() => pageServer("here"), /Use --page-server ADDRESS:PORT/);
  assert.throws(() => pageServer("here:x"), /Invalid port number/);
  assert.throws(() => statusFile(flagsOf("--status-fd", "4711")), /invalid --status-fd argument 4711/);
  assert.throws(() => statusFile(flagsOf("--status-fd", "0")), /not writable|bad file/);
});
