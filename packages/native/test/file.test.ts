/** Orders on files, and the traps that a rootfs can lay for them. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import {
  chmodSync,
  existsSync,
  linkSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  renameSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import {
  carryOut,
  NEW,
  NO_SLOT,
  O,
  order,
  privateMounts,
  refuse,
  root,
  S,
  scratch,
  shell,
  succeed,
  text,
} from "./bosun.ts";

const DEVICE = { mode: S.IFCHR | 0o666, major: 1, minor: 3, uid: 0, gid: 0 };
const device = (path: string, more: Partial<typeof DEVICE> = {}) =>
  order("mkdev", { root: 0, path, ...DEVICE, ...more });
const directory = (path: string, mode = 0o755, uid = 0, gid = 0) =>
  order("mkdir_in", { root: 0, path, mode, uid, gid });
const read = (path: string, max = 4096) => order("read_in", { root: 0, path, max });

/** A rootfs inside a directory with a file that nothing in the rootfs may lead to. */
function trap(t: Parameters<typeof scratch>[0]): { rootfs: string; outside: string } {
  const base = scratch(t);
  const rootfs = join(base, "rootfs");
  mkdirSync(join(rootfs, "etc"), { recursive: true });
  mkdirSync(join(base, "outside"));
  writeFileSync(join(base, "outside/secret"), "secret");
  writeFileSync(join(rootfs, "etc/secret"), "inside");
  return { rootfs, outside: join(base, "outside") };
}

test("check_device tells the null device from all else", async (t) => {
  const dir = scratch(t);
  writeFileSync(join(dir, "file"), "");
  const check = (path: string) => [
    order("open", { slot: 0, path, flags: O.PATH }),
    order("check_device", { slot: 0, major: 1, minor: 3 }),
  ];
  await succeed(check("/dev/null"));
  execFileSync("mknod", [join(dir, "block"), "b", "1", "3"]);
  execFileSync("mknod", [join(dir, "tty3"), "c", "4", "3"]);
  for (const path of ["/dev/zero", "/dev", join(dir, "file"), join(dir, "block"), join(dir, "tty3")])
    await refuse(check(path), "EINVAL", /slot 0 is not the character device 1:3/);
});

test("open reports the path", async () => {
  await refuse([order("open", { slot: 0, path: "/no/such", flags: 0n })], "ENOENT", /^open \/no\/such$/);
});

test("mkdev makes devices with their owner and mode, keeps equal ones, refuses others", async (t) => {
  const dir = scratch(t);
  const blocks = device("/deep/er/loop", { mode: S.IFBLK | 0o660, major: 7, minor: 0, uid: 5, gid: 6 });
  await succeed([root(0, dir), device("/null"), blocks, device("/pipe", { mode: S.IFIFO | 0o600 }), device("/null")]);
  const node = statSync(join(dir, "null"));
  assert.equal(node.isCharacterDevice(), true);
  assert.equal(node.rdev, 0x103);
  assert.equal(node.mode & 0o777, 0o666, "not changed by the umask");
  const loop = statSync(join(dir, "deep/er/loop"));
  assert.deepEqual([loop.isBlockDevice(), loop.uid, loop.gid, loop.mode & 0o777], [true, 5, 6, 0o660]);
  assert.equal(statSync(join(dir, "pipe")).isFIFO(), true);
  await refuse([root(0, dir), device("/null", { minor: 5 })], "EEXIST", /\/null is there already and is another thing/);
  await refuse([root(0, dir), device("/x", { mode: 0o666 })], "EINVAL", /no device's/);
  await refuse([root(0, dir), device("/..")], "EINVAL", /openat2 \/\.\./);
});

test("mkdev does not follow a link in the device's place, and stays in the rootfs where /dev is one", async (t) => {
  const { rootfs, outside } = trap(t);
  mkdirSync(join(rootfs, "dev"));
  symlinkSync(join(outside, "null"), join(rootfs, "dev/null"));
  await refuse([root(0, rootfs), device("/dev/null")], "EEXIST", /is another thing/);
  const other = trap(t);
  symlinkSync(other.outside, join(other.rootfs, "dev"));
  await succeed([root(0, other.rootfs), device("/dev/null")]);
  assert.deepEqual(readdirSync(other.outside), ["secret"]);
  assert.equal(statSync(join(other.rootfs, other.outside, "null")).isCharacterDevice(), true);
});

test("symlink keeps what is there", async (t) => {
  const dir = scratch(t);
  writeFileSync(join(dir, "kept"), "as it was");
  const make = (path: string) => order("symlink", { root: 0, path, target: "/proc/self/fd" });
  await succeed([root(0, dir), make("/dev/fd"), make("/dev/fd"), make("/kept")]);
  assert.equal(readlinkSync(join(dir, "dev/fd")), "/proc/self/fd");
  assert.equal(readFileSync(join(dir, "kept"), "utf8"), "as it was");
});

test("mkdir_in makes parents, and only what is missing", async (t) => {
  const dir = scratch(t);
  await succeed([root(0, dir), directory("/a/b/c", 0o1777, 7, 8), directory("/a/b/c", 0o700, 1, 1), directory("/")]);
  const last = statSync(join(dir, "a/b/c"));
  assert.deepEqual([last.mode & 0o7777, last.uid, last.gid], [0o1777, 7, 8]);
  const parent = statSync(join(dir, "a/b"));
  assert.deepEqual([parent.mode & 0o7777, parent.uid], [0o755, 0]);
  writeFileSync(join(dir, "file"), "");
  await refuse([root(0, dir), directory("/file")], "ENOTDIR", /mkdirat \/file/);
  await refuse([root(0, dir), directory("/file/x")], "ENOTDIR", /\/file\/x/);
  await refuse([root(0, dir), directory(`/${"n".repeat(256)}`)], "ENAMETOOLONG", /n/);
});

const traps: readonly [
  name: string,
  link: string,
  target: (outside: string) => string,
  path: string,
  lands: (outside: string) => string,
][] = [
  ["absolute link", "link", (outside) => outside, "/link/new", (outside) => `${outside}/new`],
  ["relative link", "link", () => "../../../../../../../outside", "/link/new", () => "outside/new"],
  ["dangling link", "link", () => "/not/yet", "/link/new", () => "not/yet/new"],
  ["link as the last component", "link", () => "/elsewhere", "/link", () => "elsewhere"],
  ["dots in the path", "unused", () => "/", "/etc/../../../../outside/new", () => "outside/new"],
];
for (const [name, link, target, path, lands] of traps) {
  test(`mkdir_in stays in the rootfs: ${name}`, async (t) => {
    const { rootfs, outside } = trap(t);
    symlinkSync(target(outside), join(rootfs, link));
    await succeed([root(0, rootfs), directory(path)]);
    assert.deepEqual(readdirSync(outside), ["secret"]);
    assert.equal(statSync(join(rootfs, lands(outside))).isDirectory(), true);
  });
}

test("links that never end are refused", async (t) => {
  const { rootfs } = trap(t);
  symlinkSync("b", join(rootfs, "a"));
  symlinkSync("a", join(rootfs, "b"));
  await refuse([root(0, rootfs), directory("/a/x")], "ELOOP", /\/a\/x/);
  await refuse([root(0, rootfs), read("/b")], "ELOOP", /\/b/);
  symlinkSync("x/".repeat(2000), join(rootfs, "long"));
  symlinkSync(`long/${"y/".repeat(200)}`, join(rootfs, "longer"));
  await refuse([root(0, rootfs), directory("/longer")], "ENAMETOOLONG", /\/longer/);
});

test("read_in stays in the rootfs, takes only regular files, and says what is missing", async (t) => {
  const { rootfs, outside } = trap(t);
  symlinkSync(join(outside, "secret"), join(rootfs, "absolute"));
  symlinkSync("../outside/secret", join(rootfs, "relative"));
  symlinkSync("/etc/secret", join(rootfs, "good"));
  execFileSync("mkfifo", [join(rootfs, "fifo")]);
  const outcome = await succeed([
    root(0, rootfs),
    read("/absolute"),
    read("/relative"),
    read("/../outside/secret"),
    read("/good"),
    read("/etc/secret/x"),
  ]);
  for (const index of [1, 2, 3, 5])
    assert.equal(outcome.outputs.get(index), undefined, `order ${index} read the secret`);
  assert.equal(text(outcome, 4), "inside");
  for (const path of ["/fifo", "/etc"])
    await refuse([root(0, rootfs), read(path)], "EINVAL", new RegExp(`^${path} is not a regular file$`));
});

test("magic links of a procfs in the rootfs lead nowhere", async (t) => {
  const { rootfs } = trap(t);
  mkdirSync(join(rootfs, "proc"));
  const mounted = [
    ...privateMounts,
    order("mount", { source: "proc", target: join(rootfs, "proc"), fstype: "proc", flags: 0n, data: "" }),
    root(0, rootfs),
  ];
  for (const path of ["/proc/self/root/etc/passwd", "/proc/self/cwd/x", "/proc/self/exe"])
    await refuse([...mounted, read(path)], "ELOOP", new RegExp(path));
  const ordinary = await succeed([...mounted, read("/proc/self/status", 5)]);
  assert.equal(text(ordinary, mounted.length), "Name:");
});

test("mkdir on the host", async (t) => {
  const dir = scratch(t);
  const make = (path: string, existOk: number, parents: number, mode = 0o777) =>
    order("mkdir", { path: join(dir, path), mode, existOk, parents });
  await succeed([make("a", 0, 0), make("a", 1, 0), make("p//q/r/", 0, 1), make("p/q/r", 1, 1)]);
  assert.equal(statSync(join(dir, "a")).mode & 0o777, 0o777);
  assert.equal(statSync(join(dir, "p/q")).mode & 0o777, 0o755);
  await refuse([make("a", 0, 0)], "EEXIST", /^mkdir .*a$/);
  await refuse([make("x/y", 0, 0)], "ENOENT", /^mkdir .*x\/y$/);
  writeFileSync(join(dir, "file"), "");
  await refuse([make("file", 1, 0)], "EEXIST", /file$/);
  await refuse([make("file/x", 1, 1)], "ENOTDIR", /file/);
});

test("write_file writes once to what exists", async (t) => {
  const dir = scratch(t);
  writeFileSync(join(dir, "file"), "longer than that");
  const write = (path: string, data: string) => order("write_file", { path, data: Buffer.from(data) });
  await succeed([write(join(dir, "file"), "new\0")]);
  assert.equal(readFileSync(join(dir, "file"), "utf8"), "new\0er than that");
  await refuse([write(join(dir, "absent"), "x")], "ENOENT", /^open .*absent$/);
  await refuse([write("/proc/self/oom_score_adj", "nonsense")], "EINVAL", /^write \/proc\/self\/oom_score_adj$/);
});

test("write_slot writes to what was opened while its path was in sight", async (t) => {
  const file = join(scratch(t), "file");
  writeFileSync(file, "old");
  const write = (slot: number) => order("write_slot", { slot, data: Buffer.from("new!") });
  await succeed([order("open", { slot: 0, path: file, flags: O.WRONLY }), order("unlink", { path: file }), write(0)]);
  await succeed([order("open", { slot: 0, path: "/dev/null", flags: O.WRONLY }), write(0)]);
  await refuse([write(1)], "EBADF", /slot 1 is empty/);
  await refuse([order("open", { slot: 0, path: "/dev/full", flags: O.WRONLY }), write(0)], "ENOSPC", /^write fd 0$/);
});

const procfs = order("fs_mount", {
  slot: 1,
  fstype: "proc",
  source: "proc",
  options: ["subset=pid"],
  attrs: 0n,
  fdKeys: [],
  fdSlots: [],
});
const writeProc = (path: string, data: string) => order("write_proc", { slot: 1, path, data: Buffer.from(data) });

test("write_proc writes beneath a procfs of its own", async () => {
  const outcome = await succeed([
    procfs,
    writeProc("self/oom_score_adj", "300"),
    shell("cat /proc/self/oom_score_adj >&2"),
  ]);
  assert.equal(outcome.said, "300\n");
  const whole = order("fs_mount", {
    slot: 1,
    fstype: "proc",
    source: "proc",
    options: [],
    attrs: 0n,
    fdKeys: [],
    fdSlots: [],
  });
  const sysctl = await succeed([
    order("unshare", { flags: NEW.ipc }),
    whole,
    writeProc("sys/kernel/shm_rmid_forced", "1"),
    shell("cat /proc/sys/kernel/shm_rmid_forced >&2"),
  ]);
  assert.equal(sysctl.said, "1\n");
  await refuse([whole, writeProc("sys/no/such", "1")], "ENOENT", /^openat2 \/proc\/sys\/no\/such$/);
});

test("write_proc refuses what only looks like a procfs (CVE-2019-16884, CVE-2025-52881)", async (t) => {
  const dir = scratch(t);
  mkdirSync(join(dir, "self"));
  writeFileSync(join(dir, "self/oom_score_adj"), "");
  const fakes: readonly (readonly [string, ReturnType<typeof order>])[] = [
    ["directory", order("open", { slot: 1, path: dir, flags: O.PATH })],
    [
      "tmpfs",
      order("fs_mount", { slot: 1, fstype: "tmpfs", source: "", options: [], attrs: 0n, fdKeys: [], fdSlots: [] }),
    ],
    ["file of a procfs", order("open", { slot: 1, path: "/proc/version", flags: O.PATH })],
    ["directory of a procfs", order("open", { slot: 1, path: "/proc/sys", flags: O.PATH })],
    ["bind of a directory of a procfs", order("open_tree", { slot: 1, path: "/proc/sys", recursive: 0 })],
  ];
  for (const [, fake] of fakes)
    await refuse([fake, writeProc("self/oom_score_adj", "300")], "EXDEV", /slot 1 is not the root of a procfs/);
});

test("write_proc follows no link and crosses no mount", async (t) => {
  const dir = scratch(t);
  writeFileSync(join(dir, "fake"), "");
  mkdirSync(join(dir, "proc"));
  const covered = [
    ...privateMounts,
    order("mount", { source: "proc", target: join(dir, "proc"), fstype: "proc", flags: 0n, data: "" }),
    order("mount", {
      source: join(dir, "fake"),
      target: join(dir, "proc/sys/kernel/shm_rmid_forced"),
      fstype: "",
      flags: 4096n,
      data: "",
    }),
    order("open", { slot: 1, path: join(dir, "proc"), flags: O.PATH }),
  ];
  await refuse([...covered, writeProc("sys/kernel/shm_rmid_forced", "1")], "EXDEV", /openat2/);
  assert.equal(readFileSync(join(dir, "fake"), "utf8"), "");
  const whole = order("fs_mount", {
    slot: 1,
    fstype: "proc",
    source: "proc",
    options: [],
    attrs: 0n,
    fdKeys: [],
    fdSlots: [],
  });
  for (const path of ["thread-self/oom_score_adj", "self/root/etc/hostname", "self/cwd/x", "mounts"])
    await refuse([whole, writeProc(path, "1")], "ELOOP", /openat2/);
  await refuse([whole, writeProc("../etc/hostname", "1")], "EXDEV", /openat2/);
});

test("unlink and rmdir are idempotent", async (t) => {
  const dir = scratch(t);
  writeFileSync(join(dir, "file"), "");
  mkdirSync(join(dir, "d/e/f"), { recursive: true });
  const unlink = order("unlink", { path: join(dir, "file") });
  const rmdir = (path: string, children: number) => order("rmdir", { path: join(dir, path), children });
  await succeed([
    unlink,
    unlink,
    rmdir("d/e/f", 0),
    rmdir("d/e/f", 0),
    rmdir("d", 1),
    rmdir("d", 1),
    rmdir("no/such", 1),
    rmdir("no/such", 0),
  ]);
  assert.deepEqual(readdirSync(dir), []);
  mkdirSync(join(dir, "d/e"), { recursive: true });
  writeFileSync(join(dir, "d/e/file"), "");
  await refuse([rmdir("d", 1)], "ENOTEMPTY", /^rmdir /);
  await refuse([rmdir("d", 0)], "ENOTEMPTY", /^rmdir .*d$/);
  await refuse([order("unlink", { path: dir })], "EISDIR", /^unlink /);
});

test("rmdir of children follows no link", async (t) => {
  const { rootfs, outside } = trap(t);
  mkdirSync(join(outside, "empty"));
  mkdirSync(join(rootfs, "cg"));
  symlinkSync(outside, join(rootfs, "cg/link"));
  await refuse([order("rmdir", { path: join(rootfs, "cg"), children: 1 })], "ENOTEMPTY", /rmdir/);
  assert.equal(existsSync(join(outside, "empty")), true);
});

test("disk_usage counts blocks and inodes, hard links once, and follows nothing", async (t) => {
  const { rootfs, outside } = trap(t);
  writeFileSync(join(outside, "big"), Buffer.alloc(1 << 20, 1));
  symlinkSync(outside, join(rootfs, "way-out"));
  mkdirSync(join(rootfs, "a/b/c"), { recursive: true });
  writeFileSync(join(rootfs, "a/b/file"), Buffer.alloc(100_000, 1));
  for (let i = 0; i < 100; i++) linkSync(join(rootfs, "a/b/file"), join(rootfs, `a/link-${i}`));
  const { outputs } = await succeed([
    order("disk_usage", { path: rootfs }),
    order("disk_usage", { path: join(rootfs, "absent") }),
  ]);
  assert.equal(outputs.get(1), undefined);
  const counted = outputs.get(0);
  assert.ok(counted);
  const view = new DataView(counted.buffer, counted.byteOffset);
  // What du(1) says, and the tree's names without the further ones of the file: rootfs etc secret way-out a b c file.
  const du = Number(execFileSync("du", ["-s", "--block-size=1", rootfs], { encoding: "utf8" }).split("\t")[0]);
  assert.deepEqual([Number(view.getBigUint64(0, true)), Number(view.getBigUint64(8, true))], [du, 8]);
});

test("disk_usage goes down further than paths reach", async (t) => {
  const dir = scratch(t);
  const deeper = "mkdir aaaaaaaaaaaaaaaaaaaaaaaaa && cd -P aaaaaaaaaaaaaaaaaaaaaaaaa";
  execFileSync("bash", ["-c", `cd ${dir}; for i in $(seq 300); do ${deeper} || exit; done`]);
  const { outputs } = await succeed([order("disk_usage", { path: dir })]);
  const counted = outputs.get(0);
  assert.ok(counted);
  assert.equal(new DataView(counted.buffer, counted.byteOffset).getBigUint64(8, true), 301n);
});

const remove = (path: string | Uint8Array) => order("remove_tree", { path });

test("remove_tree removes what there is, and nothing that links lead to", async (t) => {
  const { rootfs, outside } = trap(t);
  mkdirSync(join(rootfs, "a/b/c"), { recursive: true });
  mkdirSync(join(rootfs, "closed"), { mode: 0 });
  for (let i = 0; i < 3000; i++) writeFileSync(join(rootfs, "a/b", `file-with-a-rather-long-name-${i}`), "");
  for (let i = 0; i < 50; i++) mkdirSync(join(rootfs, "a", `d${i}/e`), { recursive: true });
  symlinkSync(outside, join(rootfs, "a/link"));
  symlinkSync(join(outside, "secret"), join(rootfs, "a/b/c/secret"));
  linkSync(join(outside, "secret"), join(rootfs, "a/hard"));
  execFileSync("mkfifo", [join(rootfs, "a/fifo")]);
  const name = Buffer.concat([Buffer.from(`${rootfs}/a/`), Buffer.from([0xff, 0xfe, 0x80, 0x0a])]);
  mkdirSync(name);
  writeFileSync(Buffer.concat([name, Buffer.from([0x2f, 0xc0])]), "");
  await succeed([remove(`${rootfs}//`), remove(rootfs)]);
  assert.equal(existsSync(rootfs), false);
  assert.equal(readFileSync(join(outside, "secret"), "utf8"), "secret");
});

test("remove_tree takes names that are not UTF-8, files and links as such", async (t) => {
  const { outside } = trap(t);
  const dir = scratch(t);
  const name = Buffer.concat([Buffer.from(`${dir}/`), Buffer.from([0xff, 0xfe])]);
  mkdirSync(name);
  writeFileSync(join(dir, "file"), "");
  symlinkSync(outside, join(dir, "link"));
  await succeed([
    remove(name),
    remove(join(dir, "file")),
    remove(join(dir, "link")),
    remove(join(dir, "no/such/thing")),
  ]);
  assert.deepEqual(readdirSync(dir), []);
  assert.deepEqual(readdirSync(outside), ["secret"]);
  for (const path of ["/", "relative", `${dir}/..`, `${dir}/.`])
    await refuse([remove(path)], "EINVAL", /not an absolute path/);
});

test("remove_tree goes down further than paths and descriptors reach", async (t) => {
  const dir = scratch(t);
  const chain = "d/".repeat(1400);
  for (let i = 0; i < 4; i++) {
    mkdirSync(join(dir, "next", chain, "x"), { recursive: true });
    writeFileSync(join(dir, "next", chain, "file"), "");
    if (i > 0) renameSync(join(dir, "tree"), join(dir, "next", chain, "tree"));
    renameSync(join(dir, "next"), join(dir, "tree"));
  }
  const limited = [order("rlimit", { resource: 7, soft: 16n, hard: 16n }), remove(join(dir, "tree"))];
  await succeed(limited);
  assert.deepEqual(readdirSync(dir), []);
});

test("remove_tree crosses no mount", async (t) => {
  const { rootfs, outside } = trap(t);
  mkdirSync(join(rootfs, "mnt/in"), { recursive: true });
  const bind = (target: string) => order("mount", { source: outside, target, fstype: "", flags: 4096n, data: "" });
  await refuse([...privateMounts, bind(join(rootfs, "mnt/in")), remove(rootfs)], "EBUSY", /^remove .*rootfs: in$/);
  await refuse([...privateMounts, bind(join(rootfs, "mnt")), remove(join(rootfs, "mnt"))], "EBUSY", /^open .*mnt$/);
  assert.deepEqual(readdirSync(outside), ["secret"]);
});

test("remove_tree names what cannot be removed", async (t) => {
  const dir = scratch(t);
  mkdirSync(join(dir, "tree/sub"), { recursive: true });
  writeFileSync(join(dir, "tree/sub/immutable"), "");
  try {
    execFileSync("chattr", ["+i", join(dir, "tree/sub/immutable")], { stdio: "ignore" });
  } catch {
    t.skip("the file system has no immutable attribute");
    return;
  }
  try {
    await refuse([remove(join(dir, "tree"))], "EPERM", /^remove .*tree: immutable$/);
  } finally {
    execFileSync("chattr", ["-i", join(dir, "tree/sub/immutable")]);
  }
});

test("files made by an order have the umask's mode, whatever started bosun", async (t) => {
  const dir = scratch(t);
  chmodSync(dir, 0o777);
  const outcome = await carryOut([root(0, dir), shell(`umask >&2; touch ${dir}/x`)], {
    wrapper: ["/bin/sh", "-c", 'umask 0; exec "$@"', "sh"],
  });
  assert.equal(outcome.said, "0022\n");
  assert.equal(lstatSync(join(dir, "x")).mode & 0o777, 0o644);
  assert.equal(NO_SLOT, 0xffffffff);
});
