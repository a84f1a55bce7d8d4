/** Whole containers: clone, maps, park, the terminal, the reaper. */
import assert from "node:assert/strict";
import { execFile, execFileSync } from "node:child_process";
import {
  chmodSync,
  chownSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  readFileSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import type { Order } from "@berth/kernel";
import { ATTR, carryOut, NEW, NO_SLOT, O, order, refuse, type Running, S, scratch, start, succeed } from "./bosun.ts";

interface Clone {
  cgroupSlot?: number;
  uidMap?: string;
  gidMap?: string;
  denySetgroups?: number;
}
const clone = (flags: bigint, more: Clone = {}) =>
  order("clone", { flags, cgroupSlot: NO_SLOT, uidMap: "", gidMap: "", denySetgroups: 0, ...more });
const exec = (script: string) => order("exec", { argv: ["/bin/sh", "-c", script], env: ["PATH=/bin"], keep: 0 });
const ALL = NEW.mnt | NEW.pid | NEW.uts | NEW.ipc | NEW.net | NEW.cgroup;
const [ROOTFS, ROOT, PART] = [0, 1, 2];

interface Part {
  fstype: string;
  target: string;
  options?: string[];
  attrs?: bigint;
  strict?: number;
}
function mounted({ fstype, target, options = [], attrs = 0n, strict = 0 }: Part): Order[] {
  return [
    order("fs_mount", { slot: PART, fstype, source: fstype, options, attrs, fdKeys: [], fdSlots: [] }),
    order("move_mount", { slot: PART, root: ROOT, target, create: 1, strict }),
  ];
}

function rootfs(t: TestContext): string {
  const dir = scratch(t);
  chmodSync(dir, 0o755);
  for (const name of ["bin", "etc", "dev", "proc", "sys"]) mkdirSync(join(dir, name));
  copyFileSync("/bin/busybox", join(dir, "bin/busybox"));
  for (const applet of [
    "sh",
    "cat",
    "id",
    "ls",
    "ps",
    "grep",
    "stat",
    "tty",
    "sleep",
    "true",
    "kill",
    "touch",
    "wc",
    "hostname",
    "stty",
    "head",
  ])
    symlinkSync("busybox", join(dir, "bin", applet));
  writeFileSync(join(dir, "etc/passwd"), "root:x:0:0::/:/bin/sh\n");
  return dir;
}

/** What every container's plan has between its rootfs and its process. */
function container(
  dir: string,
  options: { flags?: bigint; clone?: Clone; before?: readonly Order[]; inside?: readonly Order[] } = {},
): Order[] {
  return [
    order("open_tree", { slot: ROOTFS, path: dir, recursive: 0 }),
    order("open_tree", { slot: 4, path: "/dev/null", recursive: 0 }),
    ...(options.before ?? []),
    order("dumpable", { value: 0 }),
    order("enter_empty_mounts", {}),
    clone(options.flags ?? ALL, options.clone),
    order("setsid", {}),
    order("attach_root", { slot: ROOTFS, at: "/rootfs", root: ROOT }),
    ...mounted({ fstype: "proc", target: "/proc", strict: 1, attrs: ATTR.NOSUID | ATTR.NODEV | ATTR.NOEXEC }),
    ...mounted({ fstype: "sysfs", target: "/sys", strict: 1, attrs: ATTR.RDONLY }),
    ...mounted({ fstype: "tmpfs", target: "/dev", options: ["mode=755", "size=64k"] }),
    ...mounted({ fstype: "devpts", target: "/dev/pts", options: ["newinstance", "ptmxmode=0666", "mode=0620"] }),
    ...mounted({ fstype: "mqueue", target: "/dev/mqueue" }),
    order("symlink", { root: ROOT, path: "/dev/ptmx", target: "pts/ptmx" }),
    ...(options.inside ?? []),
    order("pivot", { root: ROOT }),
  ];
}
const nullDevice = order("mkdev", {
  root: ROOT,
  path: "/dev/null",
  mode: S.IFCHR | 0o666,
  major: 1,
  minor: 3,
  uid: 0,
  gid: 0,
});

test("a container: its own namespaces, its rootfs and nothing else", async (t) => {
  const dir = rootfs(t);
  const plan = [
    ...container(dir, { inside: [nullDevice] }),
    order("hostname", { hostname: "inside", domainname: "" }),
    order("link_up", { name: "lo" }),
    order("open", { slot: 5, path: "/dev/null", flags: O.PATH }),
    order("check_device", { slot: 5, major: 1, minor: 3 }),
    order("fs_mount", {
      slot: 6,
      fstype: "tmpfs",
      source: "",
      options: [],
      attrs: ATTR.RDONLY,
      fdKeys: [],
      fdSlots: [],
    }),
    order("mask", { root: ROOT, path: "/proc/timer_list", nullSlot: 5, dirSlot: 6 }),
    order("mask", { root: ROOT, path: "/proc/tty", nullSlot: 5, dirSlot: 6 }),
    order("readonly", { root: ROOT, path: "/proc/sys" }),
    order("chdir", { path: "/etc", tolerate: 0 }),
    exec(
      "echo $$; hostname; ls /; ls -A /proc/tty | wc -l; cat /proc/timer_list | wc -l; touch /proc/sys/kernel/hostname && echo 1 > /proc/sys/kernel/shm_rmid_forced; ls /sys/class/net; id -u; echo $PWD; touch /written",
    ),
  ];
  const outcome = await succeed(plan);
  assert.match(
    outcome.said.replaceAll(/^.*Read-only file system\n/gm, ""),
    /^1\ninside\nbin\ndev\netc\nproc\nsys\n0\n0\nlo\n0\n\/etc\n$/,
  );
  assert.match(outcome.said, /Read-only file system/);
  assert.equal(existsSync(join(dir, "written")), true);
  assert.equal(readFileSync("/proc/self/mountinfo", "utf8").includes(dir), false);
});

test("a failure in the child names its order, after the clone", async (t) => {
  const plan = [...container(rootfs(t)), order("chdir", { path: "/nowhere", tolerate: 0 })];
  const outcome = await carryOut(plan);
  assert.deepEqual(
    [outcome.code, outcome.order, outcome.stage, outcome.detail],
    ["ENOENT", plan.length - 1, 1, "chdir /nowhere"],
  );
  const early = await carryOut([order("dumpable", { value: 7 }), clone(NEW.uts)]);
  assert.deepEqual([early.code, early.order, early.stage], ["EINVAL", 0, 0]);
});

test("clone reports what the kernel refuses, and is done once", async () => {
  await refuse([clone(1n << 60n)], "EINVAL", /^clone3 0x/);
  const twice = await carryOut([clone(NEW.uts), clone(NEW.uts)]);
  assert.deepEqual([twice.code, twice.order, twice.stage, twice.detail], ["EINVAL", 1, 1, "a plan has one clone"]);
  await refuse([clone(NEW.uts, { cgroupSlot: 9 })], "EBADF", /slot 9 is empty/);
});

test("outputs that come before park are delivered with it", async (t) => {
  const dir = rootfs(t);
  const read = order("read_in", { root: ROOT, path: "/etc/passwd", max: 100 });
  const plan = [...container(dir, { inside: [read] }), order("park", {}), exec("exit 3")];
  const outcome = await succeed(plan);
  assert.equal(outcome.status, 3);
  assert.equal(Buffer.from(outcome.outputs.get(plan.indexOf(read)) ?? []).toString(), "root:x:0:0::/:/bin/sh\n");
});

const MAPPED = "0 100000 65536\n";
test("a user namespace: maps written before the child goes on, everything its own", async (t) => {
  const dir = rootfs(t);
  for (const path of ["", "bin", "etc", "dev", "proc", "sys"]) chownSync(join(dir, path), 100000, 100000);
  const plan = [
    ...container(dir, {
      flags: ALL | NEW.user,
      clone: { uidMap: MAPPED, gidMap: MAPPED },
      inside: [order("mkdir_in", { root: ROOT, path: "/made", mode: 0o755, uid: 0, gid: 0 })],
    }),
    order("hostname", { hostname: "inside", domainname: "" }),
    order("user", { uid: 7, gid: 8, groups: [9], keepGroups: 0, chownStdio: 0 }),
    exec("cat /proc/self/uid_map /proc/self/gid_map; id -u; id -g; id -G; hostname; stat -c %u /made"),
  ];
  const outcome = await carryOut(plan);
  if (outcome.code === "EINVAL" && outcome.detail.startsWith("clone3"))
    return t.skip("this kernel makes no user namespaces");
  assert.equal(outcome.code, "", `${String(outcome.order)} ${outcome.detail}`);
  assert.match(outcome.said.replaceAll(/ +/g, " "), /^ 0 100000 65536\n 0 100000 65536\n7\n8\n8 9\ninside\n0\n$/);
  assert.equal(execFileSync("stat", ["-c", "%u", join(dir, "made")]).toString(), "100000\n");
});

test("a map that the kernel refuses: the child is killed, the stage says why", async () => {
  const bad = await carryOut([clone(NEW.user, { uidMap: "0 0 1\n0 0 1\n", gidMap: MAPPED }), order("reap", {})]);
  assert.deepEqual([bad.code, bad.order, bad.stage], ["EINVAL", 0, 0]);
  assert.match(bad.detail, /^write \/proc\/\d+\/uid_map$/);
  assert.equal(existsSync(`/proc/${/\d+/.exec(bad.detail)?.[0] ?? "0"}`), false);
});

test("denySetgroups comes before the maps", async () => {
  const outcome = await succeed([
    clone(NEW.user, { uidMap: MAPPED, gidMap: MAPPED, denySetgroups: 1 }),
    exec("cat /proc/self/setgroups; id -u"),
  ]);
  assert.match(outcome.said, /^deny\n0\n/);
});

test("clone into a v2 cgroup", async (t) => {
  const line = readFileSync("/proc/self/mountinfo", "utf8")
    .split("\n")
    .find((one) => one.includes(" - cgroup2 "));
  if (line === undefined) return t.skip("no cgroup2 is mounted");
  const path = join(line.split(" ")[4] ?? "", `bosun-test-${process.pid}-clone`);
  mkdirSync(path);
  t.after(() => carryOut([order("rmdir", { path, children: 0 })]));
  const outcome = await succeed([
    order("open", { slot: 8, path, flags: O.PATH | O.DIRECTORY }),
    clone(NEW.uts, { cgroupSlot: 8 }),
    exec("cat /proc/self/cgroup"),
  ]);
  assert.ok(outcome.said.includes(`0::/${path.split("/").at(-1) ?? "?"}\n`), outcome.said);
  await refuse(
    [order("open", { slot: 8, path: "/etc", flags: O.PATH | O.DIRECTORY }), clone(NEW.uts, { cgroupSlot: 8 })],
    "EBADF",
    /^clone3/,
  );
});

const terminal = (bindConsole: number, root = ROOT) => order("console", { root, rows: 33, columns: 111, bindConsole });

test("the terminal: the container's own devpts, its size, /dev/console", async (t) => {
  const plan = [
    ...container(rootfs(t), { inside: [terminal(1)] }),
    exec("tty; stty size; stat -c %t:%T /dev/console; echo -n > /dev/tty && echo controlling; echo err >&2"),
  ];
  const outcome = await succeed(plan);
  assert.equal(outcome.said.replaceAll("\r", ""), "/dev/pts/0\n33 111\n88:0\ncontrolling\nerr\n");
});

test("the terminal: a ptmx that is not devpts's is refused (CVE-2025-52565)", async (t) => {
  const dir = rootfs(t);
  const outcome = await carryOut([
    ...container(dir, {
      inside: [
        // A node of the right number, and a devpts where the driver looks for one: it opens, and is the wrong one.
        order("mkdir_in", { root: ROOT, path: "/fake/dev/pts", mode: 0o755, uid: 0, gid: 0 }),
        order("mkdev", {
          root: ROOT,
          path: "/fake/dev/pts/ptmx",
          mode: S.IFCHR | 0o666,
          major: 5,
          minor: 2,
          uid: 0,
          gid: 0,
        }),
        ...mounted({ fstype: "devpts", target: "/fake/dev/pts/pts" }),
        order("open", { slot: 9, path: "/rootfs/fake", flags: O.PATH }),
        terminal(0, 9),
      ],
    }),
    exec("true"),
  ]);
  assert.deepEqual([outcome.code, outcome.detail], ["ENODEV", "/dev/pts/ptmx is not a devpts's"]);
});

test("the terminal: a link in the place of /dev/console is not followed (CVE-2025-52565)", async (t) => {
  const plan = [
    ...container(rootfs(t), {
      inside: [order("symlink", { root: ROOT, path: "/dev/console", target: "/etc/passwd" }), terminal(1)],
    }),
    exec("true"),
  ];
  const outcome = await carryOut(plan);
  assert.deepEqual([outcome.code, outcome.detail], ["ELOOP", "/dev/console is a symlink"]);
});

test("the terminal needs a session of its own", async (t) => {
  const outcome = await carryOut([
    ...container(rootfs(t), { inside: [terminal(0)] }).filter((one) => one.order !== "setsid"),
    exec("true"),
  ]);
  assert.deepEqual([outcome.code, outcome.detail], ["EPERM", "make the terminal the controlling one"]);
});

/** What a command prints, whatever its status. Not the synchronous kind: plans are written to bosun by the event loop. */
function output(command: string, ...rest: string[]): Promise<string> {
  return new Promise((resolve) => execFile(command, rest, (_error, stdout) => resolve(stdout)));
}

/** The reaper that `bosun run` has made, once it waits for signals. */
async function reaperOf(running: Running): Promise<number> {
  const waits = process.arch === "x64" ? 128 : 137; // rt_sigtimedwait
  for (let i = 0; i < 1000; i++) {
    const children = await output("ps", "-o", "pid=,stat=", "--ppid", String(running.process.pid));
    const child = /(\d+) S/.exec(children)?.[1]; // the stage is a zombie beside it
    if (child !== undefined && (await output("cat", `/proc/${child}/syscall`)).startsWith(`${waits} `))
      return Number(child);
  }
  running.process.kill("SIGTERM");
  await running.outcome;
  throw new Error("the reaper never came up");
}

test("reap: PID 1 of a pod reaps orphans, keeps nothing open, and ends on TERM or INT", async (t) => {
  const dir = rootfs(t);
  for (const signal of ["SIGTERM", "SIGINT"] as const) {
    const running = start([...container(dir, { inside: [nullDevice] }), order("reap", {})]);
    t.after(() => running.process.kill("SIGTERM"));
    const pid = await reaperOf(running);
    assert.deepEqual(execFileSync("ls", [`/proc/${pid}/fd`]).toString(), "0\n1\n2\n");
    const orphans = await succeed([
      order("pidfd", { slot: 0, pid }),
      order("setns", { slot: 0, type: NEW.pid | NEW.mnt }),
      clone(0n),
      exec("(true & true & true &); (sleep 0.05 & true &); echo $$; ps -o pid,stat,args"),
    ]);
    assert.match(orphans.said, /^\d+\nPID +STAT COMMAND\n +1 [RS] +\{bosun-reaper\} bosun\n/);
    const children = () => output("ps", "-o", "stat=", "--ppid", String(pid));
    for (let i = 0; i < 200 && (await children()) !== ""; i++);
    assert.equal(await children(), "");
    running.process.kill(signal);
    const outcome = await running.outcome;
    assert.deepEqual([outcome.code, outcome.status], ["", 0]);
  }
});

test("a second process joins a container by pidfd", async (t) => {
  const running = start([
    ...container(rootfs(t)),
    order("hostname", { hostname: "joined", domainname: "" }),
    order("reap", {}),
  ]);
  const pid = await reaperOf(running);
  try {
    const outcome = await succeed([
      order("pidfd", { slot: 0, pid }),
      order("dumpable", { value: 0 }),
      order("setns", { slot: 0, type: ALL }),
      clone(0n),
      order("setsid", {}),
      order("open", { slot: 1, path: "/", flags: O.PATH }),
      order("console", { root: 1, rows: 24, columns: 80, bindConsole: 0 }),
      exec("hostname; tty; cat /proc/1/comm; ls /"),
    ]);
    assert.equal(outcome.said.replaceAll("\r", ""), "joined\n/dev/pts/0\nbosun-reaper\nbin   dev   etc   proc  sys\n");
  } finally {
    running.process.kill("SIGTERM");
    await running.outcome;
  }
});
