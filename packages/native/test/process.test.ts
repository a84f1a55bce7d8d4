/** Orders on the process itself, and exec. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { chmodSync, copyFileSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { carryOut, NEW, O, order, privateMounts, refuse, scratch, shell, start, succeed } from "./bosun.ts";

const exec = (argv: readonly string[], env: readonly string[] = ["PATH=/usr/bin:/bin"], keep = 0) =>
  order("exec", { argv, env, keep });
const user = (
  uid: number,
  gid: number,
  groups: readonly number[] = [],
  more: { keepGroups?: number; chownStdio?: number } = {},
) => order("user", { uid, gid, groups, keepGroups: 0, chownStdio: 0, ...more });
const caps = (effective: bigint, permitted = effective, inheritable = 0n, ambient = 0n) =>
  order("caps", { effective, permitted, inheritable, ambient });
const status = (...keys: string[]) => shell(`grep -E '^(${keys.join("|")}):' /proc/self/status >&2`);
const values = (said: string) =>
  Object.fromEntries(
    said
      .trim()
      .split("\n")
      .map((line) => line.split(/:\s*/) as [string, string]),
  );
const [CHOWN, NET_BIND, SETUID] = [1n << 0n, 1n << 10n, 1n << 7n];

test("exec searches PATH of its env", async (t) => {
  const dir = scratch(t);
  for (const name of ["a", "b", "c"]) mkdirSync(join(dir, name));
  writeFileSync(join(dir, "a/tool"), "#!/bin/sh\necho not me", { mode: 0o644 });
  mkdirSync(join(dir, "b/tool"));
  writeFileSync(join(dir, "c/tool"), '#!/bin/sh\necho "$0 $1 $X" >&2', { mode: 0o755 });
  const path = `PATH=${dir}/a:/no/such:${dir}/b:${dir}/c`;
  const outcome = await succeed([exec(["tool", "arg"], ["X=env", path])]);
  assert.equal(outcome.said, `${dir}/c/tool arg env\n`);
  await refuse([exec(["tool"], [`PATH=${dir}/a`])], "EACCES", /^exec tool: permission denied$/);
  await refuse([exec(["nosuch"], [path])], "ENOENT", /^exec nosuch: executable file not found in \$PATH$/);
  for (const env of [[], ["PATH="], ["PATHS=/bin"]]) await refuse([exec(["sh"], env)], "ENOENT", /not found in \$PATH/);
  const empty = await carryOut([order("chdir", { path: join(dir, "c"), tolerate: 0 }), exec(["tool"], ["PATH=:/bin"])]);
  assert.match(empty.said, /^\.\/tool/);
});

test("exec says why a path cannot be run", async (t) => {
  const dir = scratch(t);
  writeFileSync(join(dir, "garbage"), "garbage", { mode: 0o755 });
  writeFileSync(join(dir, "orphan"), "#!/no/such/interpreter\n", { mode: 0o755 });
  writeFileSync(join(dir, "plain"), "#!/bin/sh\n", { mode: 0o644 });
  await refuse([exec([join(dir, "absent")])], "ENOENT", /^exec .*absent: no such file or directory$/);
  await refuse([exec([join(dir, "orphan")])], "ENOENT", /^exec .*orphan: its interpreter is missing$/);
  await refuse([exec([join(dir, "plain")])], "EACCES", /^exec .*plain: permission denied$/);
  await refuse([exec([dir])], "EACCES", /permission denied$/);
  await refuse([exec([join(dir, "garbage")])], "ENOEXEC", /^exec .*garbage: exec format error$/);
  await refuse([exec([])], "EINVAL", /^argv is empty$/);
  await refuse([exec([""])], "ENOENT", /not found in \$PATH$/);
});

test("exec: nothing but 0-2 is open, signals are as at boot, whatever bosun was started with", async () => {
  const opened = [
    order("open", { slot: 0, path: "/", flags: O.PATH }),
    order("open", { slot: 1, path: "/dev/null", flags: 0n }),
  ];
  const wrapper = ["/bin/sh", "-c", 'trap "" PIPE HUP USR1; exec 7</etc/passwd; exec "$@" 3>&1 4>&2', "sh"];
  // ls has the directory itself open as 3.
  const files = await carryOut([...opened, exec(["/bin/busybox", "ls", "/proc/self/fd"])], { wrapper });
  assert.equal(files.said, "0\n1\n2\n3\n");
  const signals = await carryOut([...opened, exec(["/bin/busybox", "cat", "/proc/self/status"])], { wrapper });
  assert.match(signals.said, /SigBlk:\t0+\nSigIgn:\t0+\nSigCgt:\t0+\n/);
});

test("exec of an open descriptor's path finds nothing (CVE-2024-21626)", async (t) => {
  const dir = scratch(t);
  copyFileSync("/bin/busybox", join(dir, "busybox"));
  const opened = [3, 4, 5, 6, 7, 8, 9].map((slot) =>
    order("open", { slot, path: join(dir, "busybox"), flags: O.PATH }),
  );
  for (const fd of [3, 4, 5, 6, 7, 8, 9, 10, 11]) {
    const outcome = await carryOut([...opened, exec([`/proc/self/fd/${fd}`, "true"])]);
    // EACCES: the way to the monitor, which is a socket and the only one left.
    assert.match(outcome.code, /^(ENOENT|EACCES)$/);
    assert.match(outcome.detail, /^exec \/proc\/self\/fd\//);
  }
});

test("chdir into what an open descriptor leads to is noticed (CVE-2024-21626)", async (t) => {
  const dir = scratch(t);
  mkdirSync(join(dir, "rootfs/proc"), { recursive: true });
  const outcome = await carryOut([
    ...privateMounts,
    order("open", { slot: 0, path: "/etc", flags: O.PATH }),
    order("open_tree", { slot: 1, path: join(dir, "rootfs"), recursive: 0 }),
    order("attach_root", { slot: 1, at: join(dir, "rootfs"), root: 2 }),
    order("mount", { source: "proc", target: join(dir, "rootfs/proc"), fstype: "proc", flags: 0n, data: "" }),
    order("pivot", { root: 2 }),
    ...[3, 4, 5, 6, 7, 8].map((fd) => order("chdir", { path: `/proc/self/fd/${fd}`, tolerate: 1 })),
  ]);
  assert.equal(outcome.code, "EPERM");
  assert.match(outcome.detail, /^chdir \/proc\/self\/fd\/\d: the directory is outside the container's root$/);
});

test("chdir: where to, and what is tolerated", async () => {
  const outcome = await succeed([order("chdir", { path: "/usr/lib", tolerate: 0 }), shell("pwd >&2")]);
  assert.equal(outcome.said, "/usr/lib\n");
  await refuse([order("chdir", { path: "/no/such", tolerate: 0 })], "ENOENT", /^chdir \/no\/such$/);
  await succeed([order("chdir", { path: "/no/such", tolerate: 1 })]);
  await refuse([order("chdir", { path: "/etc/passwd", tolerate: 1 })], "ENOTDIR", /^chdir \/etc\/passwd$/);
});

test("preserved descriptors are kept, and must be there", async () => {
  const wrapper = ["/bin/sh", "-c", 'exec 3</etc/hostname 4<&3; exec "$@"', "sh"];
  const outcome = await start([exec(["/bin/busybox", "ls", "/proc/self/fd"], [], 0)], { wrapper }).outcome;
  assert.equal(outcome.code, "");
  const kept = await start([exec(["/bin/sh", "-c", "cat <&4 >&2"], ["PATH=/bin"], 2)], { wrapper }).outcome;
  assert.equal(kept.said, execFileSync("cat", ["/etc/hostname"]).toString());
  await refuse([exec(["/bin/true"], [], 2)], "EBADF", /^descriptor 3 is to be preserved and is not there$/);
});

test("user: ids, groups, and capabilities that stay for the caps order", async () => {
  const outcome = await succeed([
    user(1000, 1001, [5, 7, 70000]),
    caps(NET_BIND),
    status("Uid", "Gid", "Groups", "CapPrm"),
  ]);
  const is = values(outcome.said);
  assert.equal(is["Uid"], "1000\t1000\t1000\t1000");
  assert.equal(is["Gid"], "1001\t1001\t1001\t1001");
  assert.equal(is["Groups"]?.trim(), "5 7 70000");
  assert.equal(is["CapPrm"], "0000000000000000", "permitted does not outlive exec without ambient");
  const kept = await succeed([user(0, 0, [4, 5]), user(1000, 1000, [9], { keepGroups: 1 }), status("Groups")]);
  assert.equal(values(kept.said)["Groups"]?.trim(), "4 5");
  await refuse([user(1000, 1000), user(0, 0, [], { keepGroups: 1 })], "EPERM", /^setresgid 0$/);
  await refuse([user(1000, 1000), user(1000, 1000, [1])], "EPERM", /^setgroups \(1 groups\)$/);
});

test("user gives its stdio away only where it is a pipe or a terminal", async () => {
  const plan = (chownStdio: number) => [
    user(1000, 1000, [], { chownStdio }),
    shell("stat -L -c %u /dev/null /proc/self/fd/2 >&2; echo reopened > /dev/stderr"),
  ];
  // Node gives its children sockets: put a pipe in their place.
  const wrapper = ["/bin/sh", "-c", '{ "$@" 2>&1 >&3 | cat >&2; } 3>&1', "sh"];
  assert.equal((await carryOut(plan(1), { wrapper })).said, "0\n1000\nreopened\n");
  assert.match((await carryOut(plan(0), { wrapper })).said, /^0\n0\n.*Permission denied/);
  assert.match((await carryOut(plan(1))).said, /^0\n0\n/);
});

test("caps: the sets, ambient included", async () => {
  const outcome = await succeed([
    order("bounding", { mask: CHOWN | NET_BIND }),
    user(1000, 1000),
    caps(NET_BIND, NET_BIND | CHOWN, NET_BIND, NET_BIND),
    status("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"),
  ]);
  const is = values(outcome.said);
  const hex = (mask: bigint) => mask.toString(16).padStart(16, "0");
  assert.deepEqual(is, {
    CapInh: hex(NET_BIND),
    CapPrm: hex(NET_BIND),
    CapEff: hex(NET_BIND),
    CapBnd: hex(CHOWN | NET_BIND),
    CapAmb: hex(NET_BIND),
  });
  await refuse([caps(CHOWN, 0n)], "EPERM", /^capset$/);
  await refuse([caps(CHOWN, CHOWN, 0n, CHOWN)], "EPERM", /^prctl PR_CAP_AMBIENT_RAISE 0$/);
  await refuse([caps(0n), order("bounding", { mask: SETUID })], "EPERM", /^prctl PR_CAPBSET_DROP \d+$/);
});

test("root with an emptied inheritable set gets what the bounding set leaves", async () => {
  const outcome = await succeed([
    order("bounding", { mask: CHOWN }),
    user(0, 0),
    caps(CHOWN),
    status("CapPrm", "CapEff", "CapInh"),
  ]);
  assert.deepEqual(values(outcome.said), {
    CapInh: "0000000000000000",
    CapPrm: "0000000000000001",
    CapEff: "0000000000000001",
  });
});

test("rlimit, umask, no_new_privs, personality, ioprio, scheduler", async () => {
  const outcome = await succeed([
    order("rlimit", { resource: 7, soft: 100n, hard: 200n }),
    order("umask", { mask: 0o27 }),
    order("no_new_privs", {}),
    order("personality", { value: 8n }),
    order("ioprio", { value: (2 << 13) | 6 }),
    order("scheduler", { policy: 3, flags: 0n, nice: 5n, priority: 0, runtime: 0n, deadline: 0n, period: 0n }),
    shell(
      "ulimit -Sn >&2; ulimit -Hn >&2; umask >&2; grep NoNewPrivs /proc/self/status >&2; uname -m >&2; ionice >&2; awk '{print $19, $41}' /proc/self/stat >&2",
    ),
  ]);
  assert.match(outcome.said, /^100\n200\n0027\nNoNewPrivs:\t1\n(i686|armv8l)\nbest-effort: prio 6\n5 3\n$/);
  await refuse([order("rlimit", { resource: 7, soft: 10n, hard: 5n })], "EINVAL", /^prlimit 7$/);
  await refuse([order("ioprio", { value: 0xffff })], "EINVAL", /^ioprio_set 0xffff$/);
  await refuse(
    [order("scheduler", { policy: 99, flags: 0n, nice: 0n, priority: 0, runtime: 0n, deadline: 0n, period: 0n })],
    "EINVAL",
    /^sched_setattr policy 99$/,
  );
});

test("rlimit takes infinity", async () => {
  const infinite = (1n << 64n) - 1n;
  const outcome = await succeed([
    order("rlimit", { resource: 1, soft: infinite, hard: infinite }),
    shell("ulimit -Hf >&2"),
  ]);
  assert.equal(outcome.said, "unlimited\n");
});

test("dumpable 0 hides the process's files from its own user (CVE-2016-9962)", async () => {
  const dumpable = (value: number) => order("dumpable", { value });
  const look = order("open", { slot: 0, path: "/proc/self/environ", flags: 0n });
  await succeed([user(1000, 1000), dumpable(1), look]);
  await refuse([user(1000, 1000), dumpable(1), dumpable(0), look], "EACCES", /^open \/proc\/self\/environ$/);
});

test("setsid makes a session, once", async () => {
  const outcome = await succeed([order("setsid", {}), shell("ps -o sid=,pid= -p $$ >&2")]);
  const [sid, pid] = outcome.said.trim().split(/\s+/);
  assert.equal(sid, pid);
  await refuse([order("setsid", {}), order("setsid", {})], "EPERM", /^setsid$/);
});

/** struct sock_filter entries. */
function filter(...instructions: readonly (readonly [code: number, jt: number, jf: number, k: number])[]): Buffer {
  return Buffer.concat(
    instructions.map(([code, jt, jf, k]) => {
      const bytes = Buffer.alloc(8);
      bytes.writeUInt16LE(code, 0);
      bytes.writeUInt8(jt, 2);
      bytes.writeUInt8(jf, 3);
      bytes.writeUInt32LE(k >>> 0, 4);
      return bytes;
    }),
  );
}
const [LOAD, EQUAL, RETURN] = [0x20, 0x15, 0x06];
const [ALLOW, EPERM] = [0x7fff0000, 0x00050001];
const numbers = process.arch === "x64" ? { uname: 63, execve: 59 } : { uname: 160, execve: 221 };
const denyUname = filter([LOAD, 0, 0, 0], [EQUAL, 0, 1, numbers.uname], [RETURN, 0, 0, EPERM], [RETURN, 0, 0, ALLOW]);
const seccomp = (bytes: Buffer, flags = 0n) => order("seccomp", { flags, filter: bytes });

test("seccomp: the filter is loaded, by exec or before", async () => {
  for (const between of [[], [order("umask", { mask: 0o22 })]]) {
    const outcome = await carryOut([
      order("no_new_privs", {}),
      seccomp(denyUname),
      ...between,
      shell("grep Seccomp: /proc/self/status >&2; uname >&2; echo $? >&2"),
    ]);
    assert.equal(outcome.code, "", outcome.detail);
    assert.match(outcome.said, /^Seccomp:\t2\n.*uname.*\n1\n$/s);
  }
});

test("seccomp before exec: only execve has to pass the filter", async () => {
  // Without close_range bosun cannot prepare an exec any more: it has done so before.
  const CLOSE_RANGE = 436;
  const noCloseRange = filter(
    [LOAD, 0, 0, 0],
    [EQUAL, 0, 1, CLOSE_RANGE],
    [RETURN, 0, 0, EPERM],
    [RETURN, 0, 0, ALLOW],
  );
  await succeed([order("no_new_privs", {}), seccomp(noCloseRange), exec(["true"])]);
  const onlyExecve = filter(
    [LOAD, 0, 0, 0],
    [EQUAL, 0, 1, numbers.execve],
    [RETURN, 0, 0, ALLOW],
    [RETURN, 0, 0, 0x80000000],
  );
  const killed = await carryOut([order("no_new_privs", {}), seccomp(onlyExecve), exec(["true"])]);
  assert.equal(killed.code, "");
  assert.equal(killed.status, 128 + 31, "killed by SIGSYS at its first call after exec");
});

test("seccomp: what is no filter, and no right to load one", async () => {
  for (const bytes of [Buffer.alloc(0), Buffer.alloc(7), Buffer.alloc(8 * 4097)])
    await refuse([seccomp(bytes)], "EINVAL", /^a filter of \d+ bytes$/);
  await refuse([order("no_new_privs", {}), seccomp(filter([0xffff, 0, 0, 0]))], "EINVAL", /^seccomp \(1 instructions/);
  await refuse([user(1000, 1000), seccomp(denyUname), shell("true")], "EACCES", /^seccomp \(4 instructions/, 1);
});

test("exec under a user without rights is judged as that user", async (t) => {
  const dir = scratch(t);
  chmodSync(dir, 0o755);
  copyFileSync("/bin/busybox", join(dir, "busybox"));
  chmodSync(join(dir, "busybox"), 0o700);
  await refuse(
    [user(1000, 1000), caps(0n), exec(["busybox", "true"], [`PATH=${dir}`])],
    "EACCES",
    /^exec busybox: permission denied$/,
  );
});

test("unshare of a user namespace keeps the plan going", async () => {
  const outcome = await succeed([order("unshare", { flags: NEW.user }), shell("id -u >&2")]);
  assert.equal(outcome.said, "65534\n");
});
