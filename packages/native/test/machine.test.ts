/** Orders about a whole machine, as far as this one may be told: the rest is in tests/guest/bosun.test.ts. */
import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statfsSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import type { Order } from "@berth/kernel";
import { carryOut, NEW, O, order, refuse, scratch, shell, succeed, text } from "./bosun.ts";

test("files by their path, with a limit, and none", async (t) => {
  const dir = scratch(t);
  writeFileSync(join(dir, "file"), "0123456789");
  const outcome = await succeed([
    order("read_file", { path: join(dir, "file"), max: 4 }),
    order("read_file", { path: join(dir, "file"), max: 100 }),
    order("read_file", { path: join(dir, "none"), max: 4 }),
    order("read_file", { path: "/proc/self/comm", max: 100 }),
  ]);
  assert.deepEqual(
    [0, 1, 2, 3].map((index) => text(outcome, index)),
    ["0123", "0123456789", undefined, "bosun\n"],
  );
  await refuse([order("read_file", { path: dir, max: 4 })], "EISDIR", /^read \//);
});

test("paths that match a pattern", async (t) => {
  const dir = scratch(t);
  for (const name of ["a1", "a2", "b1"]) mkdirSync(join(dir, name));
  const outcome = await succeed([
    order("find", { pattern: `${dir}/a*`, timeoutMs: 0 }),
    order("find", { pattern: `${dir}/c*`, timeoutMs: 0 }),
    order("find", { pattern: `${dir}/b*`, timeoutMs: 60_000 }),
  ]);
  assert.equal(text(outcome, 0), `${dir}/a1\0${dir}/a2\0`);
  assert.equal(text(outcome, 1), undefined);
  assert.equal(text(outcome, 2), `${dir}/b1\0`);
  await refuse([order("find", { pattern: `${dir}/c*`, timeoutMs: 20 })], "ETIMEDOUT", /^wait for \//);
});

test("files that take another's place, or another content", async (t) => {
  const dir = scratch(t);
  for (const name of ["a", "b"]) writeFileSync(join(dir, name), `${name}\n`.repeat(100));
  const { ino } = statSync(join(dir, "b"));
  await succeed([
    order("fill_file", { path: join(dir, "b"), data: Buffer.from("other\n") }),
    order("rename", { from: join(dir, "a"), to: join(dir, "c") }),
  ]);
  assert.equal(readFileSync(join(dir, "b"), "utf8"), "other\n");
  assert.equal(statSync(join(dir, "b")).ino, ino);
  assert.deepEqual(readdirSync(dir).sort(), ["b", "c"]);
  await refuse([order("fill_file", { path: join(dir, "a"), data: Buffer.from("") })], "ENOENT", /^open \//);
  await refuse([order("rename", { from: join(dir, "a"), to: join(dir, "b") })], "ENOENT", /^rename \//);
});

test("a disk that does not come is told by its serial number", async () => {
  await refuse(
    [order("find_disk", { serial: "no such disk", timeoutMs: 20 })],
    "ETIMEDOUT",
    /^wait for the disk no such disk/,
  );
});

test("where links lead", async (t) => {
  const dir = scratch(t);
  symlinkSync("socket:[1]", join(dir, "1"));
  symlinkSync("/dev/null", join(dir, "2"));
  mkdirSync(join(dir, "no-link"));
  const outcome = await succeed([order("links", { pattern: `${dir}/*` }), order("links", { pattern: `${dir}/none*` })]);
  assert.deepEqual([text(outcome, 0), text(outcome, 1)], ["socket:[1]\0/dev/null\0", ""]);
});

test("a file system's size", async () => {
  const outcome = await succeed([order("file_system", { path: "/" })]);
  const bytes = Buffer.from(outcome.outputs.get(0) ?? []);
  const { blocks, files } = statfsSync("/", { bigint: true });
  assert.equal(bytes.length, 48);
  assert.deepEqual([bytes.readBigUInt64LE(8), bytes.readBigUInt64LE(32)], [blocks, files]);
  await refuse([order("file_system", { path: "/no/such" })], "ENOENT", /^statvfs \/no\/such/);
});

test("how fast the time stamp counter runs", { skip: process.arch !== "x64" }, async () => {
  const outcome = await succeed([order("tsc_rate", {}), order("tsc_rate", {})]);
  const [first = 0, second = 0] = [0, 1].map((index) =>
    Number(Buffer.from(outcome.outputs.get(index) ?? []).readBigUInt64LE()),
  );
  assert.ok(first > 100_000 && first < 10_000_000, `${first} kHz`);
  assert.ok(Math.abs(first - second) < first / 1000, `${first} and ${second} kHz`);
});

test(
  "a tap is there as long as its file is open",
  { skip: existsSync("/dev/net/tun") ? false : "no /dev/net/tun" },
  async () => {
    const own = order("unshare", { flags: NEW.net });
    const { said } = await carryOut([
      own,
      order("tap", { slot: 0, name: "tap7" }),
      order("inherit", { slot: 0, number: 0 }),
      shell("cat /proc/net/dev"),
    ]);
    assert.match(said, /^ *tap7:/m);
    const gone = await carryOut([own, order("tap", { slot: 0, name: "tap7" }), shell("cat /proc/net/dev")]);
    assert.doesNotMatch(gone.said, /tap7/);
    await refuse([own, order("tap", { slot: 0, name: "a-name-that-is-too-long" })], "ENAMETOOLONG", /^tap a-name/);
  },
);

test("what only a machine of its own may be told is refused here by name", async (t) => {
  const file = join(scratch(t), "module.ko");
  writeFileSync(file, "no module");
  await refuse([order("power_off", {})], "EPERM", /^PID 1 is not bosun guest/);
  await refuse([order("load_module", { path: "/no/module.ko", parameters: "" })], "ENOENT", /^open \/no\/module\.ko/);
  const { code, detail } = await carryOut([order("load_module", { path: file, parameters: "" })]);
  assert.notEqual(code, "");
  assert.match(detail, /^finit_module \//);
  await refuse([order("reseed_rng", { data: new Uint8Array() })], "EINVAL", /seed of 0 bytes/);
  await refuse([order("reseed_rng", { data: new Uint8Array(257) })], "EINVAL", /seed of 257 bytes/);
  await refuse([order("set_clock", { time: 2n ** 64n - 1n })], "EINVAL", /^clock_settime/);
  const outcome = await succeed([order("online", { cpus: 0, memory: 0, movable: 0 })]);
  assert.deepEqual(Buffer.from(outcome.outputs.get(0) ?? []), Buffer.alloc(8));
});

test("the random number generator is given entropy", async () => {
  await succeed([order("reseed_rng", { data: Buffer.alloc(32, 7) })]);
});

test("what is handed on is open in the program, and nothing else is", async (t) => {
  const file = join(scratch(t), "file");
  writeFileSync(file, "handed on");
  const open = order("open", { slot: 0, path: file, flags: 0n });
  const { said } = await carryOut([
    open,
    order("inherit", { slot: 0, number: 3 }),
    shell("cat /proc/self/fd/203; for fd in /proc/$$/fd/*; do echo; echo -n ${fd##*/}; done"),
  ]);
  assert.match(said, /^handed on\n/);
  // 3: what the shell reads the directory by; 10 and 255: where shells keep what they had.
  assert.deepEqual(
    said
      .split("\n")
      .slice(1)
      .map(Number)
      .filter((fd) => fd > 3 && ![10, 203, 255].includes(fd)),
    [],
  );
  await refuse([open, order("inherit", { slot: 0, number: 8 })], "EINVAL", /room for 8 inherited descriptors, not 9/);
  await refuse(
    [open, order("inherit", { slot: 0, number: 3 }), order("inherit", { slot: 0, number: 3 })],
    "EBUSY",
    /^descriptor 203 is in use/,
  );
});

test("memory is copied without what is empty in it", async (t) => {
  const dir = scratch(t);
  const [from, to] = [join(dir, "from"), join(dir, "to")];
  const memory = Buffer.alloc(12 << 20);
  // At the edges of the pieces it is copied in, a run of pages, and one byte at a page's end.
  for (const at of [0, (4 << 20) - 1, 4 << 20, (8 << 20) + 4095, memory.length - 1]) memory[at] = 1;
  memory.fill(7, 5 << 20, (5 << 20) + 3 * 4096);
  writeFileSync(from, memory);
  truncateSync(from, 16 << 20);
  await succeed([order("copy_memory", { from, to, slot: 0 })]);
  assert.deepEqual(readFileSync(to), Buffer.concat([memory, Buffer.alloc(4 << 20)]));
  const { mode, blocks } = statSync(to);
  assert.equal(mode & 0o7777, 0o600);
  assert.equal(blocks * 512, 8 * 4096);
  await refuse([order("copy_memory", { from, to, slot: 0 })], "EEXIST", /^create \//);
  await refuse(
    [order("copy_memory", { from: dir, to: join(dir, "other"), slot: 0 })],
    "EINVAL",
    /is no file of whole pages/,
  );
  truncateSync(from, 4097);
  await refuse(
    [order("copy_memory", { from, to: join(dir, "other"), slot: 0 })],
    "EINVAL",
    /is no file of whole pages/,
  );
});

test("memory and a file are handed over to a program, whatever had their numbers", async (t) => {
  const dir = scratch(t);
  const [memory, file] = [join(dir, "memory"), join(dir, "file")];
  writeFileSync(memory, Buffer.alloc(8192, "m"));
  writeFileSync(file, "state");
  const script = "head -c 3 /proc/self/fd/3 >&2; cat <&4 >&2; echo >&2; ls /proc/self/fd >&2";
  const opened = [5, 6, 7, 8].map((slot) => order("open", { slot, path: "/", flags: O.PATH }));
  const run = async (fd: number, keep: number) =>
    await carryOut([
      ...opened,
      order("copy_memory", { from: memory, to: "", slot: 0 }),
      order("open", { slot: 1, path: file, flags: O.RDONLY }),
      order("hand_over", { slot: 0, fd: 3 }),
      order("hand_over", { slot: 1, fd }),
      order("exec", { argv: ["/bin/busybox", "sh", "-c", script], env: ["PATH=/bin"], keep }),
    ]);
  const outcome = await run(4, 2);
  assert.deepEqual([outcome.code, outcome.said], ["", "mmmstate\n0\n1\n2\n3\n4\n5\n"]);
  assert.equal((await run(5, 2)).code, "EBADF");
  await refuse([order("hand_over", { slot: 9, fd: 3 })], "EBADF", /slot 9 is empty/);
  await refuse([...opened, order("hand_over", { slot: 5, fd: 2 })], "EINVAL", /descriptor 2 is none of 3 to 63/);
});

test("a volume's group: what it may do, and only where the directory says otherwise", async (t) => {
  const dir = join(scratch(t), "volume");
  mkdirSync(join(dir, "below/deep"), { recursive: true });
  writeFileSync(join(dir, "file"), "");
  writeFileSync(join(dir, "below/program"), "", { mode: 0o700 });
  symlinkSync("/etc/passwd", join(dir, "below/link"));
  const passwd = statSync("/etc/passwd");
  const mode = (path: string): string => {
    const { gid, mode: bits } = statSync(join(dir, path));
    return `${gid} ${(bits & 0o7777).toString(8)}`;
  };
  const group = (gid: number, readonly: number, onMismatch: number): Promise<unknown> =>
    succeed([order("fs_group", { path: dir, gid, readonly, onMismatch })]);
  await group(1234, 0, 0);
  assert.deepEqual(["", "below", "below/deep", "file", "below/program"].map(mode), [
    "1234 2775",
    "1234 2775",
    "1234 2775",
    "1234 664",
    "1234 760",
  ]);
  assert.deepEqual([statSync("/etc/passwd").gid, statSync("/etc/passwd").mode], [passwd.gid, passwd.mode]);

  writeFileSync(join(dir, "later"), "", { mode: 0o600 });
  await group(1234, 0, 1);
  assert.match(mode("later"), / 600$/);
  await group(1235, 1, 1);
  assert.deepEqual(["", "later"].map(mode), ["1235 2775", "1235 640"]);
  await refuse(
    [order("fs_group", { path: join(dir, "file"), gid: 1, readonly: 0, onMismatch: 0 })],
    "ENOTDIR",
    /^open /,
  );
});

for (const type of ["ext4", "xfs"])
  test(`an ${type} that is mounted grows with its device`, async (t) => {
    if (spawnSync("sh", ["-c", `command -v mkfs.${type} losetup && test -e /dev/loop-control`]).status !== 0)
      return t.skip(`needs mkfs.${type}, losetup and loop devices`);
    if (!readFileSync("/proc/filesystems", "utf8").includes(`\t${type}\n`)) return t.skip(`the kernel has no ${type}`);
    const [dir, MIB] = [scratch(t), 1 << 20];
    const [image, at] = [join(dir, "image"), join(dir, "mount")];
    const run = (program: string, ...argv: string[]): string =>
      execFileSync(program, argv, { encoding: "utf8", stdio: "pipe" });
    mkdirSync(at);
    writeFileSync(image, "");
    truncateSync(image, 320 * MIB);
    run(`mkfs.${type}`, "-q", image);
    const device = run("losetup", "--find", "--show", image).trim();
    using undone = new DisposableStack();
    undone.defer(() => run("losetup", "--detach", device));
    run("mount", device, at);
    undone.defer(() => run("umount", at));
    const grown = (bytes: number): Order =>
      order("grow_file_system", { path: at, device, bytes: BigInt(bytes), timeoutMs: 20 });
    await refuse([grown(400 * MIB)], "ETIMEDOUT", /^wait for \/dev\/loop\d+ to have 419430400 bytes/);
    truncateSync(image, 400 * MIB);
    run("losetup", "--set-capacity", device);
    const before = statfsSync(at).blocks;
    if (type === "ext4" && !isCapable(CAP_SYS_RESOURCE)) {
      await refuse([grown(400 * MIB)], "EPERM", /^grow the file system of .* to 419430400 bytes/);
      return;
    }
    await succeed([grown(400 * MIB)]);
    assert.ok(statfsSync(at).blocks > before * 1.2);
    await succeed([grown(400 * MIB)]);
  });

test("a file system that cannot grow while it is mounted says so", async (t) => {
  const device = "/dev/loop0";
  if (!existsSync(device)) return t.skip("no loop devices");
  const growing = order("grow_file_system", { path: "/proc", device, bytes: 0n, timeoutMs: 20 });
  await refuse([growing], "EOPNOTSUPP", /^grow the file system of \/proc to \d+ bytes/);
});

const CAP_SYS_RESOURCE = 24n;
const isCapable = (capability: bigint): boolean =>
  ((BigInt(`0x${/^CapEff:\s*(\S+)/m.exec(readFileSync("/proc/self/status", "utf8"))?.[1]}`) >> capability) & 1n) === 1n;
