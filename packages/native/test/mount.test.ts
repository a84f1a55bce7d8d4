/** Orders that make, change and attach mounts; all in mount namespaces of the tests' own. */
import assert from "node:assert/strict";
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import type { Order } from "@berth/kernel";
import {
  ATTR,
  carryOut,
  MS,
  NO_SLOT,
  O,
  order,
  type Outcome,
  privateMounts,
  refuse,
  root,
  scratch,
  shell,
  succeed,
} from "./bosun.ts";

interface FsMount {
  options?: string[];
  source?: string;
  attrs?: bigint;
  fdKeys?: string[];
  fdSlots?: number[];
}
function fsMount(slot: number, fstype: string, more: FsMount = {}): Order {
  return order("fs_mount", { slot, fstype, source: "", options: [], attrs: 0n, fdKeys: [], fdSlots: [], ...more });
}
const tmpfs = (slot: number, more: FsMount = {}) => fsMount(slot, "tmpfs", more);
interface Attr {
  set?: bigint;
  clear?: bigint;
  propagation?: bigint;
  recursive?: number;
  usernsSlot?: number;
}
const attr = (slot: number, more: Attr) =>
  order("mount_attr", { slot, set: 0n, clear: 0n, propagation: 0n, recursive: 0, usernsSlot: NO_SLOT, ...more });
const tree = (slot: number, path: string, recursive = 0) => order("open_tree", { slot, path, recursive });
const attach = (slot: number, target: string) => order("attach_host", { slot, target });
const [no, asDirectory, asFile, asSource] = [0, 1, 2, 3];
function move(target: string, create = asSource, more: { slot?: number; root?: number; strict?: number } = {}): Order {
  return order("move_mount", { slot: 1, root: 0, target, create, strict: 0, ...more });
}
const mask = (path: string) => order("mask", { root: 0, path, nullSlot: 2, dirSlot: 3 });
const readonly = (path: string) => order("readonly", { root: 0, path });

/** The mounts at or below `path`, as "target options fstype". */
function mounts(outcome: Outcome, path: string): string[] {
  return outcome.said.split("\n").flatMap((line) => {
    const [, , , , target = "", options = "", ...rest] = line.split(" ");
    return target.startsWith(path)
      ? [`${target.slice(path.length)} ${options} ${rest[rest.indexOf("-") + 1] ?? ""}`]
      : [];
  });
}
const show = shell("cat /proc/self/mountinfo >&2");

test("fs_mount: options, flags, attributes; attached on the host", async (t) => {
  const dir = scratch(t);
  const made = tmpfs(0, { source: "mine", options: ["mode=0751", "size=64k", "ro"], attrs: ATTR.NOSUID | ATTR.NODEV });
  const outcome = await succeed([
    ...privateMounts,
    made,
    attach(0, dir),
    shell(`stat -c %a ${dir} >&2; grep ${dir} /proc/self/mountinfo >&2`),
  ]);
  assert.match(outcome.said, /^751\n.* rw,nosuid,nodev,relatime - tmpfs mine ro,size=64k,mode=751/);
});

test("fs_mount: failures name the step, and say what the file system said", async () => {
  await refuse([fsMount(0, "nosuchfs")], "ENODEV", /^fsopen nosuchfs$/);
  await refuse([tmpfs(0, { options: ["bogus=1"] })], "EINVAL", /^fsconfig bogus=1: .*bogus/);
  await refuse([tmpfs(0, { options: [`${"k".repeat(64)}=1`] })], "ENAMETOOLONG", /^fsconfig k/);
  await refuse([fsMount(0, "overlay")], "EINVAL", /^fsconfig create overlay/);
  await refuse(
    [fsMount(0, "overlay", { fdKeys: ["lowerdir+"], fdSlots: [] })],
    "EINVAL",
    /1 descriptor keys for 0 slots/,
  );
  await refuse([fsMount(0, "overlay", { fdKeys: ["lowerdir+"], fdSlots: [9] })], "EBADF", /slot 9 is empty/);
});

function layers(t: Parameters<typeof scratch>[0]): string {
  const dir = scratch(t);
  for (const name of ["low", "high", "upper", "work", "merged"]) mkdirSync(join(dir, name));
  writeFileSync(join(dir, "low/file"), "low");
  writeFileSync(join(dir, "low/only"), "low");
  writeFileSync(join(dir, "high/file"), "high");
  return dir;
}

test("fs_mount: overlay by lowerdir+ strings", async (t) => {
  const dir = layers(t);
  const options = [`lowerdir+=${dir}/high`, `lowerdir+=${dir}/low`, `upperdir=${dir}/upper`, `workdir=${dir}/work`];
  const overlay = await carryOut([
    ...privateMounts,
    fsMount(0, "overlay", { source: "overlay", options }),
    attach(0, join(dir, "merged")),
    shell(`cd ${dir}/merged; cat file only >&2; echo new >written`),
  ]);
  if (overlay.code === "EINVAL" && /lowerdir\+/.test(overlay.detail))
    return t.skip("this kernel's overlayfs has no lowerdir+");
  assert.equal(overlay.code, "", overlay.detail);
  assert.equal(overlay.said, "highlow");
  assert.equal(readFileSync(join(dir, "upper/written"), "utf8"), "new\n");
});

test("fs_mount: overlay by descriptors of detached mounts", async (t) => {
  const dir = layers(t);
  const parts = [
    tree(1, join(dir, "high")),
    tree(2, join(dir, "low")),
    root(3, join(dir, "upper")),
    root(4, join(dir, "work")),
  ];
  const stacked = fsMount(0, "overlay", {
    source: "overlay",
    fdKeys: ["lowerdir+", "lowerdir+", "upperdir", "workdir"],
    fdSlots: [1, 2, 3, 4],
  });
  const overlay = await carryOut([
    ...privateMounts,
    ...parts,
    stacked,
    attach(0, join(dir, "merged")),
    shell(`cd ${dir}/merged; cat file only >&2; echo new >written; grep -c ${dir} /proc/self/mountinfo >&2`),
  ]);
  if (overlay.code === "EINVAL" && /lowerdir\+/.test(overlay.detail))
    return t.skip("this kernel's overlayfs takes no descriptors");
  assert.equal(overlay.code, "", overlay.detail);
  assert.equal(overlay.said, "highlow1\n", "the layers themselves appear in no mount table");
  assert.equal(readFileSync(join(dir, "upper/written"), "utf8"), "new\n");
});

test("open_tree: one mount or all below it", async (t) => {
  const dir = scratch(t);
  mkdirSync(join(dir, "source/sub"), { recursive: true });
  mkdirSync(join(dir, "one"));
  mkdirSync(join(dir, "all"));
  const outcome = await succeed([
    ...privateMounts,
    tmpfs(0),
    attach(0, join(dir, "source/sub")),
    tree(1, join(dir, "source")),
    attach(1, join(dir, "one")),
    tree(2, join(dir, "source"), 1),
    attach(2, join(dir, "all")),
    show,
  ]);
  const targets = mounts(outcome, dir).map((mount) => mount.split(" ")[0]);
  assert.deepEqual(targets, ["/source/sub", "/one", "/all", "/all/sub"]);
  await refuse([tree(0, "/no/such")], "ENOENT", /^open_tree \/no\/such$/);
});

test("mount: by path, and what mount(2) refuses", async (t) => {
  const dir = scratch(t);
  const plain = (target: string, fstype: string) =>
    order("mount", { source: "", target, fstype, flags: MS.NOSUID, data: "size=1m" });
  const outcome = await succeed([...privateMounts, plain(dir, "tmpfs"), show]);
  assert.deepEqual(mounts(outcome, dir), [" rw,nosuid,relatime tmpfs"]);
  await refuse([...privateMounts, plain(join(dir, "no"), "tmpfs")], "ENOENT", /^mount .*\/no$/);
});

test("mount_attr: sets, clears, recursive, propagation", async (t) => {
  const dir = scratch(t);
  mkdirSync(join(dir, "a"));
  const outcome = await succeed([
    ...privateMounts,
    tmpfs(0, { attrs: ATTR.NOEXEC }),
    attach(0, join(dir, "a")),
    order("mkdir", { path: join(dir, "a/b"), mode: 0o755, existOk: 0, parents: 0 }),
    tmpfs(1),
    attach(1, join(dir, "a/b")),
    attr(0, { set: ATTR.RDONLY, recursive: 1 }),
    attr(0, { clear: ATTR.NOEXEC, propagation: 1n << 20n }),
    show,
  ]);
  assert.deepEqual(mounts(outcome, dir), ["/a ro,relatime tmpfs", "/a/b ro,relatime tmpfs"]);
  assert.match(outcome.said, new RegExp(`${dir}/a ro,relatime shared:`));
  await refuse([...privateMounts, tmpfs(0), attr(0, { set: 1n << 60n })], "EINVAL", /^mount_setattr slot 0$/);
  await refuse([...privateMounts, tmpfs(0), attr(0, { usernsSlot: 7 })], "EBADF", /slot 7 is empty/);
});

test("unmount is idempotent and follows no link", async (t) => {
  const dir = scratch(t);
  mkdirSync(join(dir, "m"));
  symlinkSync("m", join(dir, "link"));
  const unmount = (path: string) => order("unmount", { path: join(dir, path), flags: 2n });
  const outcome = await succeed([...privateMounts, tmpfs(0), attach(0, join(dir, "m")), unmount("link"), show]);
  assert.equal(mounts(outcome, dir).length, 1);
  const gone = await succeed([
    ...privateMounts,
    tmpfs(0),
    attach(0, join(dir, "m")),
    unmount("m"),
    unmount("m"),
    unmount("absent"),
    show,
  ]);
  assert.deepEqual(mounts(gone, dir), []);
});

function rootfs(t: Parameters<typeof scratch>[0]): { base: string; rootfs: string; outside: string } {
  const base = scratch(t);
  for (const name of ["rootfs/etc", "outside", "source"]) mkdirSync(join(base, name), { recursive: true });
  writeFileSync(join(base, "outside/file"), "untouched");
  writeFileSync(join(base, "source/hello"), "hello");
  writeFileSync(join(base, "resolv.conf"), "nameserver");
  return { base, rootfs: join(base, "rootfs"), outside: join(base, "outside") };
}

test("move_mount makes the target that is missing, as its source is", async (t) => {
  const { base, rootfs: at } = rootfs(t);
  const outcome = await succeed([
    ...privateMounts,
    root(0, at),
    tree(1, join(base, "source")),
    move("/data/deep/dir"),
    tree(1, join(base, "resolv.conf")),
    move("/etc/resolv.conf"),
    shell(`cat ${at}/data/deep/dir/hello ${at}/etc/resolv.conf >&2`),
  ]);
  assert.equal(outcome.said, "hellonameserver");
  assert.equal(statSync(join(at, "data/deep/dir")).mode & 0o7777, 0o755);
  assert.equal(statSync(join(at, "etc/resolv.conf")).size, 0);
});

test("move_mount: create 0, 1 and 2, and targets of the wrong kind", async (t) => {
  const { base, rootfs: at } = rootfs(t);
  const from = (name: string) => [...privateMounts, root(0, at), tree(1, join(base, name))];
  await refuse([...from("source"), move("/absent", no)], "ENOENT", /^openat2 \/absent$/);
  await refuse(
    [...from("resolv.conf"), move("/made", asDirectory)],
    "EISDIR",
    /^move_mount \/made: the source is a file and the target is a directory$/,
  );
  await refuse(
    [...from("source"), move("/file", asFile)],
    "ENOTDIR",
    /^move_mount \/file: the source is a directory and the target is a file$/,
  );
  await refuse([...from("source"), move("/x", 4)], "EINVAL", /create 4/);
  await refuse([...from("source"), move("/file/below", asSource)], "ENOTDIR", /\/file\/below/);
  assert.equal(existsSync(join(at, "absent")), false);
  await succeed([...from("source"), move("/", no), shell(`test -e ${at}/hello`)]);
});

const attacks: readonly [name: string, plant: (at: string, outside: string) => void, target: string][] = [
  ["an absolute link", (at, outside) => symlinkSync(outside, join(at, "link")), "/link"],
  ["a link and a name below it", (at, outside) => symlinkSync(outside, join(at, "link")), "/link/new"],
  ["a relative link", (at) => symlinkSync("../../../outside", join(at, "etc/link")), "/etc/link/new"],
  [
    "a chain of links",
    (at, outside) => {
      symlinkSync("b", join(at, "a"));
      symlinkSync("etc/c", join(at, "b"));
      symlinkSync(outside, join(at, "etc/c"));
    },
    "/a/new",
  ],
  ["dots", () => {}, "/../../outside/new"],
  ["dots behind a link", (at) => symlinkSync("/etc", join(at, "link")), "/link/../../outside/new"],
  ["dots behind what is missing", () => {}, "/not/there/../../../outside/new"],
];
for (const [name, plant, target] of attacks) {
  test(`move_mount stays in the rootfs (CVE-2021-30465, CVE-2024-45310): ${name}`, async (t) => {
    const { base, rootfs: at, outside } = rootfs(t);
    plant(at, outside);
    const outcome = await succeed([...privateMounts, root(0, at), tree(1, join(base, "source")), move(target), show]);
    assert.deepEqual(readdirSync(outside), ["file"]);
    const [mounted = ""] = mounts(outcome, base);
    assert.match(mounted, /^\/rootfs\//, `mounted at ${mounted}`);
  });
}

test("move_mount strict: the path itself, with no link anywhere (CVE-2019-19921, CVE-2023-27561)", async (t) => {
  const { rootfs: at } = rootfs(t);
  mkdirSync(join(at, "elsewhere"));
  symlinkSync("elsewhere", join(at, "proc"));
  symlinkSync("etc", join(at, "link"));
  const strict = (target: string) => [
    ...privateMounts,
    root(0, at),
    fsMount(1, "proc"),
    move(target, asDirectory, { strict: 1 }),
  ];
  await refuse(strict("/proc"), "ELOOP", /^openat2 \/proc: must be mounted on ordinary directory$/);
  await refuse(strict("/link/proc"), "ELOOP", /^openat2 \/link\/proc: must be/);
  await refuse(strict("/etc/../sys"), "EINVAL", /not allowed here/);
  await refuse(strict("/./sys"), "EINVAL", /not allowed here/);
  await succeed([...strict("/sys"), shell(`test -e ${at}/sys/self`)]);
  await succeed([...strict("/..sys"), shell(`test -e ${at}/..sys/self`)]);
  const loose = await succeed([
    ...privateMounts,
    root(0, at),
    fsMount(1, "proc"),
    move("/proc", asDirectory),
    shell(`test -e ${at}/elsewhere/self`),
  ]);
  assert.equal(loose.status, 0);
});

test("move_mount through a rename that races with it never leaves the rootfs", async (t) => {
  const { base, rootfs: at, outside } = rootfs(t);
  mkdirSync(join(at, "a/b/c"), { recursive: true });
  // Swaps /a/b with a link to the outside as fast as it can while mounts are attached through it.
  symlinkSync(outside, join(at, "a/swap"));
  const swap = `import os,sys,ctypes
libc=ctypes.CDLL(None,use_errno=True)
os.chdir(sys.argv[1])
sys.stdout.write("go\\n"); sys.stdout.flush()
while True: libc.renameat2(-100,b"b",-100,b"swap",2)`;
  const { spawn } = await import("node:child_process");
  const racer = spawn("python3", ["-c", swap, join(at, "a")], { stdio: ["ignore", "pipe", "inherit"] });
  const started = await new Promise<boolean>((resolve) => {
    racer.on("error", () => resolve(false));
    racer.stdout.once("data", () => resolve(true));
  });
  if (!started) return t.skip("no python3 to race with");
  try {
    for (let i = 0; i < 30; i++) {
      const plan = [...privateMounts, root(0, at)];
      for (let j = 0; j < 20; j++) plan.push(tree(1, join(base, "source")), move("/a/b/c"));
      const outcome = await carryOut([...plan, show]);
      if (outcome.code !== "")
        assert.match(outcome.code, /^(ELOOP|ENOENT|EAGAIN|EXDEV|ENOTDIR|EEXIST)$/, outcome.detail);
      for (const mounted of mounts(outcome, base)) assert.match(mounted, /^\/rootfs\//);
      assert.deepEqual(readdirSync(outside), ["file"]);
    }
    // The same race, and mounts by path: the test would have noticed.
    mkdirSync(join(outside, "c"));
    const byPath = order("mount", {
      source: join(base, "source"),
      target: join(at, "a/b/c"),
      fstype: "",
      flags: MS.BIND,
      data: "",
    });
    const until = Date.now() + 120_000;
    let led = false;
    while (!led && Date.now() < until) {
      const outcome = await carryOut([...privateMounts, ...Array.from({ length: 20 }, () => byPath), show]);
      led = mounts(outcome, base).some((mounted) => !mounted.startsWith("/rootfs/"));
    }
    assert.ok(led, "without the mitigation a mount is led outside");
  } finally {
    const ended = new Promise((resolve) => racer.once("exit", resolve));
    racer.kill("SIGKILL");
    await ended;
  }
});

const maskable: readonly Order[] = [
  order("open", { slot: 2, path: "/dev/null", flags: O.PATH }),
  order("check_device", { slot: 2, major: 1, minor: 3 }),
  tmpfs(3, { options: ["nr_blocks=1", "nr_inodes=2"], attrs: ATTR.RDONLY }),
];

test("mask covers files and directories, and leaves alone what is absent", async (t) => {
  const { rootfs: at, outside } = rootfs(t);
  mkdirSync(join(at, "d1"));
  mkdirSync(join(at, "d2"));
  writeFileSync(join(at, "d1/secret"), "x");
  writeFileSync(join(at, "d2/secret"), "x");
  writeFileSync(join(at, "file"), "secret");
  symlinkSync(join(outside, "file"), join(at, "escape"));
  const outcome = await succeed([
    ...privateMounts,
    root(0, at),
    ...maskable,
    mask("/d1"),
    mask("/d2"),
    mask("/file"),
    mask("/absent/x"),
    mask("/file/x"),
    mask("/escape"),
    shell(
      `ls -A ${at}/d1 ${at}/d2 >&2; cat ${at}/file ${outside}/file >&2; touch ${at}/d1/x 2>/dev/null && echo writable >&2; stat -c ' %F' ${at}/file >&2`,
    ),
  ]);
  assert.equal(outcome.said, `${at}/d1:\n\n${at}/d2:\nuntouched character special file\n`);
});

test("mask takes only a device that was checked (CVE-2025-31133)", async (t) => {
  const { rootfs: at } = rootfs(t);
  mkdirSync(join(at, "dev"));
  symlinkSync("/etc/passwd", join(at, "dev/null"));
  const fake = order("open", { slot: 2, path: join(at, "dev/null"), flags: O.PATH });
  await refuse([fake, order("check_device", { slot: 2, major: 1, minor: 3 })], "EINVAL", /is not the character device/);
  writeFileSync(join(at, "file"), "");
  await refuse([...privateMounts, root(0, at), mask("/file")], "EBADF", /slot 2 is empty/);
});

test("readonly: read-only, with the flags it had; absent is nothing", async (t) => {
  const { rootfs: at, outside } = rootfs(t);
  mkdirSync(join(at, "d"));
  symlinkSync(outside, join(at, "escape"));
  const outcome = await succeed([
    ...privateMounts,
    tmpfs(1, { attrs: ATTR.NOSUID | ATTR.NOEXEC }),
    attach(1, join(at, "d")),
    root(0, at),
    readonly("/d"),
    readonly("/etc"),
    readonly("/absent"),
    readonly("/escape"),
    shell(
      `touch ${at}/etc/x 2>/dev/null && echo writable >&2; touch ${at}/d/x 2>/dev/null && echo writable >&2; touch ${outside}/y; cat /proc/self/mountinfo >&2`,
    ),
  ]);
  assert.deepEqual(
    mounts(outcome, at),
    ["/d rw,nosuid,noexec,relatime tmpfs", "/d ro,nosuid,noexec,relatime tmpfs", "/etc ro,relatime ext4"].map((line) =>
      line.replace("ext4", mounts(outcome, at)[2]?.split(" ")[2] ?? "ext4"),
    ),
  );
  assert.equal(existsSync(join(outside, "y")), true);
});

test("attach_root and pivot: from the near-empty mount namespace, and from a full copy of the host's", async (t) => {
  const { base } = rootfs(t);
  writeFileSync(join(base, "source/marker"), "");
  mkdirSync(join(base, "source/bin"));
  mkdirSync(join(base, "source/proc"));
  mkdirSync(join(base, "at"));
  const busybox = [tree(1, "/bin/busybox"), move("/bin/sh")];
  const inside = order("exec", {
    argv: ["/bin/sh", "-c", "ls / | tr '\\n' ' ' >&2; grep -c . /proc/self/mountinfo >&2; pwd >&2"],
    env: ["PATH=/bin"],
    keep: 0,
  });
  const end = [
    ...busybox,
    fsMount(1, "proc"),
    move("/proc", asDirectory, { strict: 1 }),
    order("pivot", { root: 0 }),
    inside,
  ];
  const pivoted = (before: readonly Order[], at: string) => [
    tree(7, join(base, "source")),
    tree(8, "/bin/busybox"),
    ...before,
    order("attach_root", { slot: 7, at, root: 0 }),
    ...end,
  ];

  const full = await succeed(pivoted(privateMounts, join(base, "at")));
  assert.equal(full.said, "bin hello marker proc 3\n/\n");
  const swapped = pivoted([order("enter_empty_mounts", {}), order("unshare", { flags: 0x20000n })], "/rootfs")
    .map((one) => (one.order === "open_tree" && one.args.slot === 1 ? order("close", { slot: 8 }) : one))
    .filter((one) => !(one.order === "close"))
    .map((one) =>
      one.order === "move_mount" && one.args.target === "/bin/sh" ? move("/bin/sh", asSource, { slot: 8 }) : one,
    );
  const empty = await succeed(swapped);
  assert.equal(empty.said, "bin hello marker proc 3\n/\n");
});

test("pivot needs a mount, attach_root a place", async (t) => {
  const { base } = rootfs(t);
  await refuse([...privateMounts, root(0, base), order("pivot", { root: 0 })], "EBUSY", /^pivot_root$/);
  await refuse(
    [...privateMounts, tree(1, base), order("attach_root", { slot: 1, at: join(base, "no"), root: 0 })],
    "ENOENT",
    /^move_mount .*no$/,
  );
});
