/** The tar reader against archives of GNU tar and Python's tarfile in every dialect, and against hand-made hostile ones. */
import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import {
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  linkSync,
  writeFileSync,
  truncateSync,
  openSync,
  writeSync,
  closeSync,
  lutimesSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import test, { type TestContext } from "node:test";
import fc from "fast-check";
import { ImageError } from "../src/errors.ts";
import { ByteReader } from "../src/layers/byte-reader.ts";
import { TarReader, type TarEntry } from "../src/layers/tar.ts";
import { archive, givenBack, header, member, paxRecord, seal } from "./support/tar-writer.ts";

interface Read extends TarEntry {
  readonly name: string;
  readonly content: Buffer;
  readonly holes: number;
}

async function* pieces(bytes: Uint8Array, size: number): AsyncGenerator<Uint8Array, void, undefined> {
  for (let at = 0; at < bytes.length; at += size) yield* givenBack(bytes.subarray(at, at + size));
}

/** Reads all of an archive that comes in pieces of `size` bytes. */
async function readAll(bytes: Uint8Array, size = 65536): Promise<Read[]> {
  const reader = new TarReader(new ByteReader(pieces(bytes, size)));
  const found: Read[] = [];
  for (let entry = await reader.next(); entry !== undefined; entry = await reader.next()) {
    const parts: Buffer[] = [];
    let holes = 0;
    if (entry.type === "file") {
      for (let piece = await reader.read(); piece !== undefined; piece = await reader.read()) {
        if (typeof piece === "number") holes += piece;
        parts.push(typeof piece === "number" ? Buffer.alloc(piece) : Buffer.from(piece));
      }
    }
    const content = Buffer.concat(parts);
    assert.equal(content.length, entry.size, `content of ${Buffer.from(entry.path).toString()}`);
    found.push({ ...entry, name: Buffer.from(entry.path).toString("latin1"), content, holes });
  }
  return found;
}

async function refused(bytes: Uint8Array, code: ImageError["code"], message: RegExp): Promise<void> {
  await assert.rejects(
    readAll(bytes),
    (error) => error instanceof ImageError && error.code === code && message.test(error.message),
  );
}

function temporary(t: TestContext): string {
  const directory = mkdtempSync(join(tmpdir(), "berth-tar-"));
  t.after(() => rmSync(directory, { recursive: true, force: true }));
  return directory;
}

function hasProgram(t: TestContext, program: string): boolean {
  if (spawnSync(program, ["--version"]).status === 0) return true;
  t.skip(`${program} is not installed`);
  return false;
}

/** Something of everything that all dialects can hold. */
function tree(directory: string): string {
  const root = join(directory, "tree");
  mkdirSync(join(root, "dir", "sub"), { recursive: true });
  writeFileSync(join(root, "dir", "file"), "content\n", { mode: 0o640 });
  writeFileSync(join(root, "empty"), "");
  writeFileSync(join(root, "exact"), Buffer.alloc(1024, 7));
  writeFileSync(join(root, "big"), Buffer.alloc(300_001, "abc"));
  symlinkSync("dir/file", join(root, "link"));
  linkSync(join(root, "big"), join(root, "hard"));
  lutimesSync(join(root, "empty"), 1_600_000_000.25, 1_600_000_000.25);
  return root;
}

for (const format of ["gnu", "oldgnu", "pax", "ustar", "v7"]) {
  test(`GNU tar, format ${format}`, async (t) => {
    if (!hasProgram(t, "tar")) return;
    const root = tree(temporary(t));
    const bytes = execFileSync(
      "tar",
      ["-C", root, `--format=${format}`, "--sort=name", "--owner=root:123", "--group=users:456", "-c", "."],
      { maxBuffer: 1 << 24 },
    );
    for (const size of [bytes.length, 512, 1000]) {
      const found = new Map((await readAll(bytes, size)).map((entry) => [entry.name.replace(/\/$/, ""), entry]));
      assert.deepEqual(
        [...found.keys()],
        [".", "./big", "./dir", "./dir/file", "./dir/sub", "./empty", "./exact", "./hard", "./link"],
      );
      const get = (name: string): Read => found.get(name) as Read;
      assert.equal(get("./dir").type, "directory");
      assert.equal(get("./dir/file").content.toString(), "content\n");
      assert.equal(get("./dir/file").mode, 0o640);
      assert.equal(get("./dir/file").uid, 123);
      assert.equal(get("./dir/file").gid, 456);
      assert.deepEqual(get("./exact").content, Buffer.alloc(1024, 7));
      assert.deepEqual(get("./big").content, Buffer.alloc(300_001, "abc"));
      assert.equal(get("./hard").type, "hardlink");
      assert.equal(Buffer.from(get("./hard").link).toString(), "./big");
      assert.equal(get("./link").type, "symlink");
      assert.equal(Buffer.from(get("./link").link).toString(), "dir/file");
      assert.equal(get("./empty").mtime, format === "pax" ? 1_600_000_000_250_000_000n : 1_600_000_000_000_000_000n);
    }
  });
}

for (const format of ["gnu", "oldgnu", "pax"]) {
  test(`GNU tar, format ${format}: long names and links, names that are no UTF-8`, async (t) => {
    if (!hasProgram(t, "tar")) return;
    const root = join(temporary(t), "tree");
    const deep = Array.from({ length: 12 }, (_, i) => `directory-number-${i}-with-a-long-name`).join("/");
    mkdirSync(join(root, deep), { recursive: true });
    const odd = Buffer.concat([Buffer.from(`${root}/`), Buffer.from([0xff, 0xfe, 0x20, 0xe4])]);
    writeFileSync(odd, "odd");
    writeFileSync(join(root, deep, "x".repeat(200)), "deep");
    symlinkSync(`${deep}/${"x".repeat(200)}`, join(root, "link"));
    const bytes = execFileSync("tar", ["-C", root, `--format=${format}`, "-c", "."], { maxBuffer: 1 << 24 });
    const found = await readAll(bytes);
    const file = found.find((entry) => entry.name === `./${deep}/${"x".repeat(200)}`);
    assert.equal(file?.content.toString(), "deep");
    assert.equal(
      Buffer.from(found.find((entry) => entry.name === "./link")?.link ?? "").toString(),
      `${deep}/${"x".repeat(200)}`,
    );
    assert.equal(found.find((entry) => entry.name === "./\xff\xfe \xe4")?.content.toString(), "odd");
  });
}

test("ustar: a name split into prefix and name", async (t) => {
  if (!hasProgram(t, "tar")) return;
  const root = join(temporary(t), "tree");
  const directory = `${"p".repeat(60)}/${"q".repeat(60)}`;
  mkdirSync(join(root, directory), { recursive: true });
  writeFileSync(join(root, directory, "r".repeat(60)), "split");
  const bytes = execFileSync("tar", ["-C", root, "--format=ustar", "-c", `${directory}/${"r".repeat(60)}`]);
  assert.equal((await readAll(bytes))[0]?.name, `${directory}/${"r".repeat(60)}`);
});

const SPARSE = [
  ["gnu", []],
  ["oldgnu", []],
  ["pax", ["--sparse-version=0.0"]],
  ["pax", ["--sparse-version=0.1"]],
  ["pax", ["--sparse-version=1.0"]],
] as const;
for (const [format, options] of SPARSE) {
  test(`GNU sparse files, format ${format} ${options.join(" ")}`, async (t) => {
    if (!hasProgram(t, "tar")) return;
    const root = join(temporary(t), "tree");
    mkdirSync(root);
    const path = join(root, "sparse");
    writeFileSync(path, "start");
    const fd = openSync(path, "r+");
    // More pieces than one old GNU header and its first extension hold.
    for (let i = 1; i <= 60; i++) writeSync(fd, `piece ${i}`, i * 1_000_000);
    closeSync(fd);
    truncateSync(path, 70_000_000);
    writeFileSync(join(root, "all-hole"), "");
    truncateSync(join(root, "all-hole"), 5_000_000);
    writeFileSync(join(root, "zz-after"), "after");
    if (statSync(path).blocks * 512 >= 70_000_000) return t.skip("this file system makes no sparse files");
    const bytes = execFileSync(
      "tar",
      ["-C", root, "--sort=name", `--format=${format}`, ...options, "--sparse", "-c", "all-hole", "sparse", "zz-after"],
      { maxBuffer: 1 << 24 },
    );
    const [hole, sparse, after] = await readAll(bytes, 4096);
    assert.equal(hole?.name, "all-hole");
    assert.equal(hole?.size, 5_000_000);
    assert.ok(hole.content.every((byte) => byte === 0));
    assert.equal(sparse?.name, "sparse");
    assert.ok(sparse.holes > 60_000_000, "holes stay holes");
    assert.ok(sparse.content.equals(readFileSync(path)));
    assert.equal(after?.content.toString(), "after");
  });
}

test("GNU tar: extended attributes", async (t) => {
  if (!hasProgram(t, "tar")) return;
  const root = temporary(t);
  writeFileSync(join(root, "file"), "x");
  const set = "import os, sys; os.setxattr(sys.argv[1], 'user.test', bytes([0, 0xff, 0x0a, 0x3d]))";
  if (spawnSync("python3", ["-c", set, join(root, "file")]).status !== 0)
    return t.skip("no python3 here, or the file system takes no user attributes");
  const bytes = execFileSync("tar", ["-C", root, "--format=pax", "--xattrs", "-c", "file"]);
  const [file] = await readAll(bytes);
  assert.equal(Buffer.from(file?.xattrs.get("user.test") ?? "").toString("hex"), "00ff0a3d");
});

const PYTHON = `
import io, sys, tarfile
def add(t, name, data=b"", **fields):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in fields.items(): setattr(info, key, value)
    t.addfile(info, io.BytesIO(data))
t = tarfile.open(fileobj=sys.stdout.buffer, mode="w|", format=getattr(tarfile, sys.argv[1]))
add(t, "dir", type=tarfile.DIRTYPE, mode=0o1777)
add(t, "file", b"hello", mode=0o4755, uid=3000000, gid=4000000, mtime=1234567890)
add(t, "char", type=tarfile.CHRTYPE, devmajor=5, devminor=1, mode=0o620)
add(t, "block", type=tarfile.BLKTYPE, devmajor=259, devminor=70000)
add(t, "fifo", type=tarfile.FIFOTYPE)
add(t, "sym", type=tarfile.SYMTYPE, linkname="L" * 150)
add(t, "hard", type=tarfile.LNKTYPE, linkname="file")
add(t, "n" * 180 + "/" + "m" * 60, b"long")
add(t, "contiguous", b"cont", type=tarfile.CONTTYPE)
if sys.argv[1] != "USTAR_FORMAT":
    add(t, "old", b"old", mtime=-86400)
    add(t, "huge-id", uid=0xfffffffe, gid=0xffffffff)
if sys.argv[1] == "PAX_FORMAT":
    add(t, "pax", b"pax", pax_headers={"SCHILY.xattr.user.a": "b=c", "mtime": "1500000000.123456789", "comment": "x"})
t.close()
`;

for (const format of ["USTAR_FORMAT", "GNU_FORMAT", "PAX_FORMAT"]) {
  test(`Python's tarfile, ${format}`, async (t) => {
    if (!hasProgram(t, "python3")) return;
    const script =
      format === "USTAR_FORMAT"
        ? PYTHON.replace("uid=3000000, gid=4000000", "uid=1000, gid=1001")
            .replace('"L" * 150', '"L" * 90')
            .replace('"n" * 180', '"n" * 100')
        : PYTHON;
    const bytes = execFileSync("python3", ["-c", script, format], { maxBuffer: 1 << 24 });
    const found = new Map((await readAll(bytes, 700)).map((entry) => [entry.name, entry]));
    const get = (name: string): Read => {
      const entry = found.get(name);
      assert.ok(entry !== undefined, `${name} is missing among ${[...found.keys()].join(", ")}`);
      return entry;
    };
    const simple = format === "USTAR_FORMAT";
    assert.equal(found.get("dir/")?.mode ?? get("dir").mode, 0o1777);
    assert.deepEqual(
      [get("file").mode, get("file").uid, get("file").gid],
      [0o4755, simple ? 1000 : 3_000_000, simple ? 1001 : 4_000_000],
    );
    assert.equal(get("file").mtime, 1_234_567_890_000_000_000n);
    assert.deepEqual(
      [get("char").type, get("char").major, get("char").minor, get("char").mode],
      ["character", 5, 1, 0o620],
    );
    assert.deepEqual([get("block").type, get("block").major, get("block").minor], ["block", 259, 70000]);
    assert.equal(get("fifo").type, "fifo");
    assert.equal(Buffer.from(get("sym").link).toString(), "L".repeat(simple ? 90 : 150));
    assert.equal(get("hard").type, "hardlink");
    assert.equal(get(`${"n".repeat(simple ? 100 : 180)}/${"m".repeat(60)}`).content.toString(), "long");
    assert.equal(get("contiguous").content.toString(), "cont");
    if (!simple) {
      assert.equal(get("old").mtime, -86_400_000_000_000n);
      assert.deepEqual([get("huge-id").uid, get("huge-id").gid], [0xfffffffe, 0xffffffff]);
    }
    if (format === "PAX_FORMAT") {
      assert.equal(get("pax").mtime, 1_500_000_000_123_456_789n);
      assert.equal(Buffer.from(get("pax").xattrs.get("user.a") ?? "").toString(), "b=c");
    }
  });
}

test("global pax records hold until they are taken back", async () => {
  const global = (records: Buffer): Buffer =>
    Buffer.concat([
      header({ name: "g", type: "g" }, records.length),
      records,
      Buffer.alloc((512 - (records.length % 512)) % 512),
    ]);
  const bytes = Buffer.concat([
    global(Buffer.concat([paxRecord("uid", "77"), paxRecord("SCHILY.xattr.user.all", "yes")])),
    member({ name: "a", uid: 1 }),
    member({ name: "b", pax: { uid: "5" } }),
    global(paxRecord("uid", "")),
    member({ name: "c", uid: 3 }),
    Buffer.alloc(1024),
  ]);
  const found = await readAll(bytes);
  assert.deepEqual(
    found.map(({ name, uid }) => [name, uid]),
    [
      ["a", 77],
      ["b", 5],
      ["c", 3],
    ],
  );
  assert.ok(found.every((entry) => Buffer.from(entry.xattrs.get("user.all") ?? "").toString() === "yes"));
});

test("a directory from before directories had a type, an old link with a size, no end marker", async () => {
  const bytes = Buffer.concat([
    member({ name: "dir/", type: "\0" }),
    member({ name: "link", type: "1", link: "dir/x", size: 4096 }),
    member({ name: "last", data: "x" }),
  ]);
  assert.deepEqual(
    (await readAll(bytes)).map(({ name, type, size }) => [name, type, size]),
    [
      ["dir/", "directory", 0],
      ["link", "hardlink", 0],
      ["last", "file", 1],
    ],
  );
});

test("the padding of the last file may be left out, as umoci does; its content may not", async () => {
  const bytes = member({ name: "last", data: "x".repeat(600) });
  assert.equal((await readAll(bytes.subarray(0, 512 + 600)))[0]?.size, 600);
  assert.equal((await readAll(bytes.subarray(0, 512 + 700)))[0]?.size, 600);
  await refused(bytes.subarray(0, 512 + 599), "InvalidImage", /truncated at byte 1111/);
});

test("nothing of a chunk is kept: extended headers at its very end, and headers", async () => {
  const tar = archive(
    { name: "x", type: "5", pax: { path: "d/".repeat(300) } },
    { name: "short", type: "2", link: "target", pax: { "SCHILY.xattr.user.a": "value" } },
  );
  const wanted = await readAll(tar, tar.length);
  for (let size = 512; size < tar.length; size += 512)
    assert.deepEqual(await readAll(tar, size), wanted, `chunks of ${size}`);
});

test("archives that break the format are refused, each for its reason", async () => {
  const good = archive({ name: "file", data: Buffer.alloc(2000, 1) });
  await refused(good.subarray(0, 1500), "InvalidImage", /truncated at byte 1500/);
  await refused(good.subarray(0, 100), "InvalidImage", /truncated/);
  await refused(Buffer.concat([Buffer.alloc(512), good]), "InvalidImage", /zero block/);
  const broken = Buffer.from(good);
  broken[0] = (broken[0] as number) ^ 1;
  await refused(broken, "InvalidImage", /checksum at byte 0/);
  await refused(archive({ name: "x", type: "Z" }), "InvalidImage", /unknown type "Z"/);
  await refused(archive({ name: "x", type: "S" }), "InvalidImage", /not in GNU's format/);
  await refused(archive({ name: "x", type: "M" }), "InvalidImage", /unknown type "M"/);
  await refused(archive({ name: "x", pax: { path: "a\0b" } }), "InvalidImage", /NUL/);
  await refused(archive({ name: "x", pax: { uid: "-5" } }), "InvalidImage", /uid -5/);
  await refused(archive({ name: "x", pax: { uid: "4294967296" } }), "InvalidImage", /uid 4294967296/);
  await refused(archive({ name: "x", pax: { size: "1e9" } }), "InvalidImage", /size/);
  await refused(archive({ name: "x", pax: { size: "-1" } }), "InvalidImage", /negative size/);
  await refused(archive({ name: "x", pax: { mtime: "soon" } }), "InvalidImage", /mtime/);
  await refused(archive({ name: "x", type: "x", data: "99999 a=b\n" }), "InvalidImage", /wrong length/);
  await refused(archive({ name: "x", type: "x", data: "nonsense" }), "InvalidImage", /without a length/);
  await refused(archive({ name: "x", type: "x", data: "6 abc\n" }), "InvalidImage", /without a value/);
  await refused(archive({ name: "x", type: "x", size: 2 ** 32 }), "LimitExceeded", /longer than/);
  await refused(archive({ name: "x", type: "L", size: 2 ** 32 }), "LimitExceeded", /longer than/);
  await refused(
    Buffer.concat([member({ name: "l", type: "L", data: "name\0" }), Buffer.alloc(1024)]),
    "InvalidImage",
    /within an entry's headers/,
  );
  await refused(
    Buffer.concat(Array.from({ length: 30 }, () => member({ name: "x", type: "x", data: paxRecord("a", "b") }))),
    "LimitExceeded",
    /extended headers/,
  );
});

test("sparse maps that lie are refused", async () => {
  const sparse = (pax: Record<string, string>, data = "12345"): Buffer => archive({ name: "s", data, pax });
  await refused(sparse({ "GNU.sparse.map": "0,5", "GNU.sparse.size": "4" }), "InvalidImage", /past the file's end/);
  await refused(sparse({ "GNU.sparse.map": "5,3,0,2", "GNU.sparse.size": "10" }), "InvalidImage", /not in order/);
  await refused(sparse({ "GNU.sparse.map": "0,3", "GNU.sparse.size": "10" }), "InvalidImage", /add up/);
  await refused(sparse({ "GNU.sparse.map": "0,3,5", "GNU.sparse.size": "10" }), "InvalidImage", /within a pair/);
  await refused(sparse({ "GNU.sparse.map": "0,5" }), "InvalidImage", /no size/);
  await refused(
    sparse({ "GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "10" }, "99999999\n"),
    "InvalidImage",
    /truncated|sparse map/,
  );
  await refused(
    sparse(
      { "GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "10" },
      Buffer.alloc(1024, "9999999999\n").toString(),
    ),
    "LimitExceeded",
    /extents/,
  );
});

test("base-256 numbers beyond what is exact are refused", async () => {
  const block = header({ name: "x" }, 0);
  block.fill(0xff, 124, 136);
  block[124] = 0xbf;
  await refused(seal(block), "InvalidImage", /size .* out of range/);
});

test("property: what the reader makes of any damage is entries or an ImageError", async () => {
  const seed = archive(
    { name: "dir/", type: "5" },
    { name: "dir/file", data: "content", pax: { "SCHILY.xattr.user.a": "b", mtime: "1.5" } },
    { name: "s", data: "12345", pax: { "GNU.sparse.map": "0,5", "GNU.sparse.size": "9" } },
    { name: "l", type: "2", link: "target" },
  );
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.tuple(fc.nat(seed.length - 1), fc.nat(255)), { maxLength: 6 }),
      fc.nat(seed.length),
      fc.integer({ min: 1, max: 2000 }),
      async (flips, end, size) => {
        const bytes = Buffer.from(seed.subarray(0, seed.length - (end % 700)));
        for (const [at, value] of flips) if (at < bytes.length) bytes[at] = value;
        // Headers keep a right checksum, so that what is behind it is reached.
        for (let at = 0; at + 512 <= bytes.length; at += 512)
          if (bytes.subarray(at + 257, at + 262).toString() === "ustar") seal(bytes.subarray(at, at + 512));
        try {
          await readAll(bytes, size);
        } catch (error) {
          assert.ok(error instanceof ImageError, String(error));
        }
      },
    ),
    { numRuns: 400 },
  );
});
