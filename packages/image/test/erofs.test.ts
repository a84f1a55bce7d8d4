/** EROFS images: what the kernel and fsck.erofs see in what the writer made of every kind of archive. */
import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import { mkdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import test from "node:test";
import { resumeImage } from "../src/erofs/load.ts";
import { ErofsImage } from "../src/erofs/reader.ts";
import { ErofsTree } from "../src/erofs/writer.ts";
import { ImageError } from "../src/errors.ts";
import { type AppliedLayer, applyLayer, type LayerLimits } from "../src/layers/apply.ts";
import { ByteReader } from "../src/layers/byte-reader.ts";
import { TarReader } from "../src/layers/tar.ts";
import { missingPrograms, scan, scanImage } from "./support/scan.ts";
import { scratch } from "./support/store.ts";
import { archive, type Member } from "./support/tar-writer.ts";

async function imageOf(file: string, tar: Uint8Array, limits?: LayerLimits): Promise<AppliedLayer> {
  async function* source(): AsyncGenerator<Uint8Array, void, undefined> {
    for (let at = 0; at < tar.length; at += 70_001) yield tar.subarray(at, at + 70_001);
  }
  const tree = await ErofsTree.create(file);
  try {
    const reader = new TarReader(new ByteReader(source()));
    const applied = await applyLayer(reader, tree, limits === undefined ? {} : { limits });
    await tree.end(false);
    return applied;
  } catch (error) {
    await tree.abort();
    throw error;
  }
}

/** fsck.erofs where it is installed; it reads every inode, name and block. */
function checkImage(file: string): void {
  if (missingPrograms("fsck.erofs") !== undefined) return;
  const { status, stdout, stderr } = spawnSync("fsck.erofs", ["--extract", file], { encoding: "utf8" });
  assert.equal(status, 0, `${stdout}${stderr}`);
}

const cannotMount =
  process.getuid?.() === 0 ? missingPrograms("unshare", "python3", "tar", "setfattr", "mknod") : "needs root";

/** Something of all that a tar dialect can say. */
function makeSource(directory: string, long: boolean): void {
  mkdirSync(join(directory, "dir/deep/er"), { recursive: true });
  writeFileSync(join(directory, "dir/file"), "content");
  writeFileSync(join(directory, "empty"), "");
  writeFileSync(join(directory, "block"), Buffer.alloc(4096, "b"));
  writeFileSync(join(directory, "odd"), Buffer.alloc(123_457, "odd"));
  for (let i = 0; i < 300; i++) writeFileSync(join(directory, `dir/deep/${"name".repeat(8)}-${i}`), String(i));
  const run = (script: string): void => void execFileSync("sh", ["-ec", script], { cwd: directory });
  run(
    "ln dir/file dir/hard; ln -s ../x dir/soft; mknod null c 1 3; mknod loop b 7 1; mkfifo fifo; chmod 6755 odd; chown 1000:2000 block",
  );
  run("truncate -s 3M sparse; printf middle | dd of=sparse bs=1 seek=1500000 conv=notrunc status=none");
  if (!long) return;
  run(
    `mkdir -p ${"d".repeat(120)}/${"e".repeat(120)}; echo x >${"d".repeat(120)}/${"e".repeat(120)}/${"f".repeat(200)}`,
  );
  run(`ln -s ${"t".repeat(3000)} long-target; printf x >"$(printf 'no\\377utf8')"`);
}

for (const [dialect, options, long] of [
  ["v7", ["--format=v7"], false],
  ["ustar", ["--format=ustar"], false],
  ["old GNU", ["--format=oldgnu"], true],
  ["GNU", ["--format=gnu"], true],
  ["GNU, sparse", ["--format=gnu", "--sparse"], true],
  ["pax", ["--format=posix", "--xattrs", "--xattrs-include=*"], true],
  ["pax, sparse 0.0", ["--format=posix", "--sparse", "--sparse-version=0.0"], true],
  ["pax, sparse 0.1", ["--format=posix", "--sparse", "--sparse-version=0.1"], true],
  ["pax, sparse 1.0", ["--format=posix", "--sparse", "--sparse-version=1.0"], true],
] as const) {
  test(`the kernel sees the tree that was archived: ${dialect}`, async (t) => {
    if (cannotMount !== undefined) return t.skip(cannotMount);
    const directory = scratch(t);
    const source = join(directory, "source");
    mkdirSync(source);
    makeSource(source, long);
    // v7 has no devices.
    if (dialect === "v7") execFileSync("rm", ["null", "loop", "fifo"], { cwd: source });
    if (dialect === "pax") {
      execFileSync("setfattr", ["-n", "user.note", "-v", "some value", join(source, "odd")]);
      execFileSync("setfattr", [
        "-n",
        "security.capability",
        "-v",
        "0x0100000200040000000000000000000000000000",
        join(source, "block"),
      ]);
    }
    execFileSync("find", [source, "-exec", "touch", "-h", "-d", "@1600000000", "{}", "+"]);
    const tar = execFileSync("tar", ["-C", source, ...options, "-cf", "-", "."], { maxBuffer: 1 << 28 });
    const file = join(directory, "image");
    await imageOf(file, tar);
    checkImage(file);
    assert.deepEqual(scanImage(t, file), scan(source));
    if (options.some((option) => option.startsWith("--sparse")))
      assert.ok(statSync(file).size < 1_000_000, "the hole takes nothing in the image");
    return undefined;
  });
}

test("names of every byte, links of every length, attributes of every size", async (t) => {
  if (cannotMount !== undefined) return t.skip(cannotMount);
  const file = join(scratch(t), "image");
  const members: Member[] = [{ name: "./", type: "5", mode: 0o700, mtime: 1 }];
  for (let byte = 1; byte < 256; byte++)
    if (byte !== 0x2f && byte !== 0x2e) members.push({ name: Buffer.from([byte]), data: String(byte) });
  for (const length of [1, 31, 1023, 1024, 1025, 4000, 4095])
    members.push({ name: `link${length}`, type: "2", pax: { linkpath: "l".repeat(length) } });
  for (const length of [0, 1, 3, 4, 100, 3900, 4096, 20_000, 60_000])
    members.push({ name: `x${length}`, data: "x", pax: { "SCHILY.xattr.trusted.big": Buffer.alloc(length, 7) } });
  for (const length of [0, 1, 1023, 1024, 1025, 4095, 4096, 4097, 1 << 20])
    members.push({ name: `f${length}`, data: Buffer.alloc(length, "f") });
  await imageOf(file, archive(...members));
  checkImage(file);
  const tree = scanImage(t, file);
  assert.equal(Object.keys(tree).length, members.length);
  assert.equal(tree["/link4095"]?.["target"], "l".repeat(4095));
  assert.deepEqual(tree["/x60000"]?.["xattrs"], { "trusted.big": "07".repeat(60_000) });
  return undefined;
});

test("a root whose attributes leave no room for it where the root usually is", async (t) => {
  for (const length of [3900, 3950, 3990, 4000, 4010, 4020, 4096, 9000]) {
    const file = join(scratch(t), "image");
    const pax = { "SCHILY.xattr.trusted.a": Buffer.alloc(length, "a") };
    await imageOf(file, archive({ name: "./", type: "5", mode: 0o700, pax }, { name: "d/f", data: "x" }));
    checkImage(file);
    const image = ErofsImage.open(file);
    t.after(() => image.close());
    assert.equal(image.root.mode & 0o777, 0o700, String(length));
    assert.equal(image.xattrs(image.root).get("trusted.a")?.length, length);
    assert.equal(image.content(image.find("d/f") as never).toString(), "x");
  }
});

test("times before 1970 and ids beyond 16 bits", async (t) => {
  if (cannotMount !== undefined) return t.skip(cannotMount);
  const file = join(scratch(t), "image");
  const pax = { mtime: "-1000.25", uid: "4000000000", gid: "70000" };
  await imageOf(file, archive({ name: "old", data: "x", pax }, { name: "new", data: "x" }));
  checkImage(file);
  const { mtime, uid, gid } = scanImage(t, file)["/old"] ?? {};
  assert.deepEqual([mtime, uid, gid], ["-1000250000000", 4_000_000_000, 70_000]);
  return undefined;
});

test("the same archive makes the same bytes, and an image that is written on keeps what it had", async (t) => {
  const directory = scratch(t);
  const [one, two] = [join(directory, "one"), join(directory, "two")];
  const members: Member[] = [
    { name: "d/", type: "5", mode: 0o755 },
    { name: "d/f", data: Buffer.alloc(10_000, "f") },
    { name: "d/g", type: "1", link: "d/f" },
    { name: "d/small", data: "inline", pax: { "SCHILY.xattr.user.a": "b" } },
    {
      name: "sparse",
      data: "12345",
      pax: { "GNU.sparse.size": "2000000", "GNU.sparse.numblocks": "1", "GNU.sparse.map": "1000000,5" },
    },
    { name: "null", type: "3", major: 1, minor: 3 },
  ];
  await imageOf(one, archive(...members));
  await imageOf(two, archive(...members));
  assert.ok(readFileSync(one).equals(readFileSync(two)));
  const tree = await resumeImage(two);
  await tree.end(false);
  assert.ok(readFileSync(one).equals(readFileSync(two)), "resumed and ended");
  const more = await resumeImage(two);
  await more.file(Buffer.from("d/more"), 0o600, 5000n, { uid: 1, gid: 2, mtime: 3n });
  await more.data(Buffer.alloc(5000, "m"));
  await more.hardlink(Buffer.from("link"), Buffer.from("d/more"));
  await more.end(false);
  checkImage(two);
  const image = ErofsImage.open(two);
  t.after(() => image.close());
  for (const [path, content] of [
    ["d/f", Buffer.alloc(10_000, "f")],
    ["d/g", Buffer.alloc(10_000, "f")],
    ["d/small", Buffer.from("inline")],
    ["link", Buffer.alloc(5000, "m")],
  ] as const)
    assert.ok(image.content(image.find(path) as never).equals(content), path);
  assert.equal(image.find("link")?.nid, image.find("d/more")?.nid);
  assert.equal(image.find("d/nothing"), undefined);
  assert.equal(image.find("d/f/below"), undefined);
});

test("a directory of 20,000 names, looked up and listed", async (t) => {
  const file = join(scratch(t), "image");
  const names = Array.from({ length: 20_000 }, (_, i) => `d/${(i * 7919) % 20_000}-${"n".repeat(i % 60)}`);
  await imageOf(file, archive(...names.map((name): Member => ({ name }))));
  checkImage(file);
  const image = ErofsImage.open(file);
  t.after(() => image.close());
  const found = image.list(image.find("d") as never).map(({ name }) => `d/${name}`);
  assert.deepEqual(found.toSorted(), names.toSorted());
  for (const name of names.slice(0, 500)) assert.ok(image.find(name) !== undefined, name);
});

const refused: readonly (readonly [what: string, tar: Buffer, message: RegExp, limits?: LayerLimits])[] = [
  [
    "more bytes than the limit",
    archive({ name: "f", data: Buffer.alloc(2 << 20) }),
    /limit layer\.bytes/,
    { entries: 10, bytes: 1 << 20 },
  ],
  [
    "more entries than the limit",
    archive({ name: "a" }, { name: "b" }),
    /limit layer\.entries/,
    { entries: 1, bytes: 10 },
  ],
  ["a size that no disk has", archive({ name: "f", size: 8 ** 11 - 1 }), /truncated/],
  ["a symlink to nothing", archive({ name: "l", type: "2", link: "" }), /to nothing/],
  ["a device that Linux does not have", archive({ name: "d", type: "3", major: 1 << 13, minor: 1 }), /does not have/],
  ["a name that is too long", archive({ name: "x", pax: { path: "n".repeat(256) } }), /256 bytes/],
  [
    "an attribute that is too large",
    archive({ name: "x", pax: { "SCHILY.xattr.user.a": Buffer.alloc(70_000) } }),
    /limit erofs\.xattrs/,
  ],
  ["an archive that is cut off", archive({ name: "f", data: Buffer.alloc(5000) }).subarray(0, 3000), /truncated/],
  ["a hard link to a directory", archive({ name: "d/", type: "5" }, { name: "h", type: "1", link: "d" }), /directory/],
];
for (const [what, tar, message, limits] of refused) {
  test(`refused: ${what}`, async (t) => {
    await assert.rejects(imageOf(join(scratch(t), "image"), tar, limits), (error: unknown) => {
      assert.ok(error instanceof ImageError, String(error));
      assert.match(error.message, message);
      return true;
    });
  });
}

test("paths that lead out stay within, duplicates replace each other, and a petabyte of nothing takes nothing", async (t) => {
  const file = join(scratch(t), "image");
  await imageOf(
    file,
    archive(
      { name: "../../etc/passwd", data: "a" },
      { name: "/abs", data: "b" },
      { name: "out", type: "2", link: "/../../.." },
      { name: "out/through", data: "c" },
      { name: "f", data: "first" },
      { name: "f/", type: "5", mode: 0o755 },
      { name: "f/in", data: "x" },
      { name: "f", data: "last" },
      {
        name: "peta",
        data: "end",
        pax: { "GNU.sparse.size": String(2 ** 50), "GNU.sparse.numblocks": "1", "GNU.sparse.map": `${2 ** 50 - 3},3` },
      },
    ),
  );
  // Not for fsck.erofs, which reads a chunk of 64 GiB into memory.
  assert.ok(statSync(file).blocks * 512 < 1 << 20);
  const image = ErofsImage.open(file);
  t.after(() => image.close());
  const text = (path: string): string => image.content(image.find(path) as never).toString();
  assert.deepEqual(["etc/passwd", "abs", "through", "f"].map(text), ["a", "b", "c", "last"]);
  assert.equal(image.find("peta")?.size, 2 ** 50);
});
