/** Orders on namespaces and cgroups. */
import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmdirSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { hostname } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { carryOut, NEW, O, order, refuse, scratch, shell, succeed } from "./bosun.ts";

const pin = (name: string, path: string) => order("pin_ns", { name, path });
const unpin = (path: string) => order("unpin", { path });

test("enter_userns: its root, by maps that it writes itself or has written", async (t) => {
  const dir = scratch(t);
  const helper = join(dir, "helper");
  writeFileSync(
    helper,
    `#!/bin/sh\np=$1; shift; echo "$@" >/proc/$p/uid_map 2>/dev/null || { echo not allowed >&2; exit 1; }\n`,
    { mode: 0o755 },
  );
  const enter = (more: { uidMap?: string; uidHelper?: string } = {}) =>
    order("enter_userns", {
      uidMap: "0 0 1\n1 100 5\n",
      gidMap: "0 0 1\n",
      denySetgroups: 1,
      uidHelper: "",
      gidHelper: "",
      ...more,
    });
  const look = shell("id -u >&2; cat /proc/self/setgroups /proc/self/uid_map >&2");
  assert.match((await succeed([enter(), look])).said, /^0\ndeny\n +0 +0 +1\n +1 +100 +5\n$/);
  assert.match((await succeed([enter({ uidMap: "0 0 3\n", uidHelper: helper }), look])).said, /^0\ndeny\n +0 +0 +3\n$/);
  await refuse([enter({ uidMap: "0 0 0\n" })], "EINVAL", /^write \/proc\/\d+\/uid_map$/);
  await refuse([enter({ uidMap: "nonsense", uidHelper: helper })], "EIO", /helper ended with status 1: not allowed$/);
});

test("namespaces are made, pinned, joined by pin, and unpinned", async (t) => {
  const dir = scratch(t);
  const pins = { uts: join(dir, "uts"), ipc: join(dir, "ipc"), net: join(dir, "net") };
  t.after(() => carryOut(Object.values(pins).map(unpin)));
  await succeed([
    order("unshare", { flags: NEW.uts | NEW.ipc | NEW.net }),
    order("hostname", { hostname: "pinned", domainname: "example" }),
    order("link_up", { name: "lo" }),
    pin("uts", pins.uts),
    pin("ipc", pins.ipc),
    pin("net", pins.net),
  ]);
  assert.notEqual(hostname(), "pinned");
  const outcome = await succeed([
    order("open", { slot: 0, path: pins.uts, flags: 0n }),
    order("setns", { slot: 0, type: NEW.uts }),
    order("open", { slot: 1, path: pins.net, flags: 0n }),
    order("setns", { slot: 1, type: NEW.net }),
    shell(
      "cat /proc/sys/kernel/hostname /proc/sys/kernel/domainname >&2; readlink /proc/self/ns/net >&2; grep -c : /proc/net/dev >&2; grep -c 127.0.0.1 /proc/net/fib_trie >&2",
    ),
  ]);
  const [host, domain, net, links, loopback] = outcome.said.split("\n");
  assert.deepEqual([host, domain, links], ["pinned", "example", "1"]);
  assert.notEqual(net, readlinkSync("/proc/self/ns/net"));
  assert.notEqual(loopback, "0", "lo is up and has its address");
  await refuse(
    [order("open", { slot: 0, path: pins.uts, flags: 0n }), order("setns", { slot: 0, type: NEW.net })],
    "EINVAL",
    /^setns slot 0/,
  );
  await succeed([unpin(pins.uts), unpin(pins.uts), unpin(pins.ipc), unpin(pins.net), unpin(join(dir, "never"))]);
  assert.deepEqual(readdirSync(dir), []);
});

test("unpin undoes a pin that was mounted on twice, or not at all", async (t) => {
  const dir = scratch(t);
  const path = join(dir, "uts");
  await succeed([
    pin("uts", path),
    order("mount", { source: "/proc/self/ns/ipc", target: path, fstype: "", flags: 4096n, data: "" }),
  ]);
  writeFileSync(join(dir, "half-made"), "");
  await succeed([unpin(path), unpin(join(dir, "half-made"))]);
  assert.deepEqual(readdirSync(dir), []);
  assert.equal(readFileSync("/proc/self/mountinfo", "utf8").includes(dir), false);
});

test("pin_ns leaves nothing behind when it fails, and takes no path for a name", async (t) => {
  const dir = scratch(t);
  await refuse([pin("nosuch", join(dir, "x"))], "ENOENT", /^mount .*x$/);
  await refuse([pin("../exe", join(dir, "x"))], "EINVAL", /no namespace is called/);
  assert.deepEqual(readdirSync(dir), []);
  writeFileSync(join(dir, "taken"), "");
  await refuse([pin("uts", join(dir, "taken"))], "EEXIST", /^open .*taken$/);
  symlinkSync("/etc/passwd", join(dir, "link"));
  await refuse([pin("uts", join(dir, "link"))], "EEXIST", /^open .*link$/);
});

test("unshare, hostname and link_up report what the kernel refuses", async () => {
  await refuse([order("unshare", { flags: 1n })], "EINVAL", /^unshare 0x1$/);
  await refuse(
    [order("unshare", { flags: NEW.uts }), order("hostname", { hostname: "x".repeat(65), domainname: "" })],
    "EINVAL",
    /^sethostname x/,
  );
  await refuse([order("link_up", { name: "nosuch0" })], "ENODEV", /^interface nosuch0$/);
  await refuse([order("link_up", { name: "a-name-that-is-too-long" })], "ENAMETOOLONG", /^interface a-name/);
});

test("link_up brings lo up", async () => {
  const outcome = await succeed([
    order("unshare", { flags: NEW.net }),
    order("link_up", { name: "lo" }),
    shell("ip -o link show lo >&2 || cat /proc/net/dev >&2"),
  ]);
  assert.match(outcome.said, /<LOOPBACK,UP,LOWER_UP>|lo:/);
});

test("pidfd joins a process's namespaces at once", async (t) => {
  const holder = spawn(
    "unshare",
    ["-u", "-i", "sh", "-c", "echo held > /proc/sys/kernel/hostname; echo ready; exec sleep 60"],
    { stdio: ["ignore", "pipe", "ignore"] },
  );
  t.after(() => holder.kill("SIGKILL"));
  await new Promise((resolve) => holder.stdout.once("data", resolve));
  const outcome = await succeed([
    order("pidfd", { slot: 0, pid: holder.pid ?? 0 }),
    order("setns", { slot: 0, type: NEW.uts | NEW.ipc }),
    shell("readlink /proc/self/ns/uts /proc/self/ns/ipc >&2; cat /proc/sys/kernel/hostname >&2"),
  ]);
  const ns = (kind: string) => readlinkSync(`/proc/${String(holder.pid)}/ns/${kind}`);
  assert.equal(outcome.said, `${ns("uts")}\n${ns("ipc")}\nheld\n`);
  await refuse([order("pidfd", { slot: 0, pid: 0x3fffff })], "ESRCH", /^pidfd_open 4194303$/);
});

test("keyring: a session keyring of its own", async () => {
  const outcome = await succeed([order("keyring", { name: "_ses.test" }), shell("cat /proc/keys >&2 || true")]);
  if (outcome.said.length > 0) assert.match(outcome.said, /_ses\.test/);
});

/** A cgroup of the test's own in the named v1 hierarchy. */
function cgroup(t: TestContext, controller: string): string | undefined {
  const line = readFileSync("/proc/self/mountinfo", "utf8")
    .split("\n")
    .find((one) => one.includes(" - cgroup ") && one.split(" - ")[1]?.split(/[ ,]/).includes(controller));
  const base = line?.split(" ")[4];
  if (base === undefined) {
    t.skip(`no v1 ${controller} hierarchy is mounted`);
    return undefined;
  }
  const path = join(base, `bosun-test-${process.pid}-${Math.random().toString(36).slice(2)}`);
  mkdirSync(path);
  t.after(() => {
    if (existsSync(path)) execFileSync("find", [path, "-depth", "-type", "d", "-exec", "rmdir", "{}", "+"]);
  });
  return path;
}

test("join_cgroup moves this process and what it becomes", async (t) => {
  const path = cgroup(t, "pids");
  if (path === undefined) return;
  const outcome = await succeed([order("join_cgroup", { path }), shell("cat /proc/self/cgroup >&2")]);
  assert.ok(outcome.said.includes(`:pids:/${path.split("/").at(-1)}`));
  await refuse([order("join_cgroup", { path: join(path, "no") })], "ENOENT", /^open .*\/no$/);
  rmdirSync(path);
});

test("inherit_cpuset fills what is empty, from the parent", async (t) => {
  const path = cgroup(t, "cpuset");
  if (path === undefined) return;
  const child = join(path, "child");
  mkdirSync(child);
  const files = ["cpuset.cpus", "cpuset.mems"];
  await refuse([order("inherit_cpuset", { path: child, files })], "EINVAL", /\.\.\/cpuset.cpus is empty too$/);
  await succeed([
    order("inherit_cpuset", { path, files }),
    order("inherit_cpuset", { path: child, files }),
    order("inherit_cpuset", { path: child, files }),
    order("join_cgroup", { path: child }),
  ]);
  for (const file of files)
    assert.equal(readFileSync(join(child, file), "utf8"), readFileSync(join(path, "..", file), "utf8"));
  await refuse([order("inherit_cpuset", { path, files: ["cpuset.nosuch"] })], "ENOENT", /^read .*nosuch$/);
});

test("rmdir removes a tree of cgroups, and says EBUSY while a process is inside", async (t) => {
  const path = cgroup(t, "pids");
  if (path === undefined) return;
  mkdirSync(join(path, "a/b"), { recursive: true });
  mkdirSync(join(path, "c"));
  const inside = spawn("sh", ["-c", `echo 0 > ${join(path, "a/b/tasks")}; echo in; exec sleep 60`], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  await new Promise((resolve) => inside.stdout.once("data", resolve));
  const rmdir = order("rmdir", { path, children: 1 });
  await refuse([rmdir], "EBUSY", /^rmdir /);
  const ended = new Promise((resolve) => inside.once("exit", resolve));
  inside.kill("SIGKILL");
  await ended;
  // The exit is seen before the last of the task has left its cgroup.
  let outcome = await carryOut([rmdir]);
  for (let i = 0; i < 50 && outcome.code === "EBUSY"; i++) outcome = await carryOut([rmdir]);
  assert.equal(outcome.code, "", outcome.detail);
  assert.equal(existsSync(path), false);
  await succeed([rmdir]);
});

test("enter_empty_mounts: next to nothing is mounted there", async () => {
  const outcome = await succeed([
    order("open", { slot: 0, path: "/bin/busybox", flags: O.PATH }),
    order("open_tree", { slot: 1, path: "/bin/busybox", recursive: 0 }),
    order("enter_empty_mounts", {}),
    order("open", { slot: 2, path: "/", flags: O.PATH }),
    order("read_in", { root: 2, path: "/proc/self/mountinfo", max: 4096 }),
  ]);
  const mounts = Buffer.from(outcome.outputs.get(4) ?? [])
    .toString()
    .trim()
    .split("\n")
    .map((line) => line.split(" ")[4]);
  assert.deepEqual(mounts, ["/", "/proc", "/sys"]);
});
