import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { once } from "node:events";
import {
  existsSync,
  lstatSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  readlinkSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { constants } from "node:os";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { TREE } from "@berth/kernel";
import {
  alive,
  encodeFields,
  frame,
  type Link,
  plan,
  type Reply,
  serve,
  type Serve,
  until,
  type Values,
} from "./client.ts";

type TreeEntry = readonly [keyof typeof TREE, Values?];
const META = { uid: 0, gid: 0, mtime: 1_600_000_000_123_456_789n };

function entry([name, values = {}]: TreeEntry): Buffer {
  const body = encodeFields(TREE[name].fields, values);
  const header = Buffer.alloc(8);
  header.writeUInt32LE(body.length, 0);
  header.writeUInt16LE(TREE[name].type, 4);
  return Buffer.concat([header, body]);
}
const directory = (path: string | Buffer, more: Values = {}): TreeEntry => [
  "directory",
  { ...META, path, mode: 0o755, ...more },
];
const file = (path: string | Buffer, content: string | Buffer, more: Values = {}): TreeEntry[] => {
  const bytes = Buffer.from(content as string);
  return [
    ["file", { ...META, path, mode: 0o644, size: BigInt(bytes.length), ...more }],
    ...(bytes.length ? [["data", { bytes }] as const] : []),
  ];
};
const end: TreeEntry = ["end", { sync: 0 }];

async function open(s: Serve, path: string, timeoutMs = 0): Promise<Link> {
  const link = await s.link();
  await link.ask("tree", "report", { path }, timeoutMs);
  return link;
}

/** The second answer to the stream's request. */
async function verdict(link: Link): Promise<Reply["fields"]> {
  await until("the final report is there", () => link.strays.length > 0, 20_000);
  const report = link.strays[0];
  assert.equal(report?.name, "report");
  await until("it is closed", () => link.closed);
  await link.end();
  return report.fields;
}

async function write(s: Serve, root: string, entries: readonly TreeEntry[]): Promise<Reply["fields"]> {
  const link = await open(s, root);
  link.socket.write(Buffer.concat(entries.map(entry)));
  return verdict(link);
}

async function succeed(s: Serve, root: string, ...entries: readonly TreeEntry[]): Promise<void> {
  const report = await write(s, root, [...entries, end]);
  assert.equal(report["errno"], 0, String(report["detail"]));
}

async function setUp(t: TestContext): Promise<{ s: Serve; root: string }> {
  const s = await serve(t);
  const root = join(s.directory, "root");
  mkdirSync(root);
  return { s, root };
}

const mtime = (path: string) => lstatSync(path, { bigint: true }).mtimeNs;

test("every type of entry, with owner, mode and time", async (t) => {
  const { s, root } = await setUp(t);
  await succeed(
    s,
    root,
    directory("d", { mode: 0o1777, uid: 5, gid: 6 }),
    ...file("d/f", "hello", { mode: 0o4755, uid: 1000, gid: 1001 }),
    ...file("d/empty", ""),
    ["symlink", { ...META, path: "d/s", target: "/etc/passwd", uid: 7, gid: 8 }],
    ["hardlink", { path: "d/h", target: "d/f" }],
    ["hardlink", { path: "d/hs", target: "d/s" }],
    ["node", { ...META, path: "d/c", mode: 0o20666, uid: 1, gid: 2, major: 1, minor: 3 }],
    ["node", { ...META, path: "d/b", mode: 0o60660, major: 7, minor: 300 }],
    ["node", { ...META, path: "d/p", mode: 0o10622 }],
    ["node", { ...META, path: "d/.wh", mode: 0o20000, major: 0, minor: 0 }],
    ["directory", { ...META, path: ".", mode: 0o750, mtime: -1n }],
  );
  const stat = (name: string) => {
    const st = lstatSync(join(root, name));
    return [(st.mode & 0o177777).toString(8), st.uid, st.gid];
  };
  assert.deepEqual(stat("d"), ["41777", 5, 6]);
  assert.deepEqual(stat("d/f"), ["104755", 1000, 1001]);
  assert.equal(readFileSync(join(root, "d/f"), "utf8"), "hello");
  assert.deepEqual(stat("d/s"), ["120777", 7, 8]);
  assert.equal(readlinkSync(join(root, "d/s")), "/etc/passwd");
  assert.equal(lstatSync(join(root, "d/h")).ino, lstatSync(join(root, "d/f")).ino);
  assert.equal(lstatSync(join(root, "d/hs")).ino, lstatSync(join(root, "d/s")).ino);
  assert.deepEqual(stat("d/c"), ["20666", 1, 2]);
  assert.equal(lstatSync(join(root, "d/c")).rdev, 0x103);
  assert.deepEqual(stat("d/b"), ["60660", 0, 0]);
  assert.deepEqual(stat("d/p"), ["10622", 0, 0]);
  assert.deepEqual([...stat("d/.wh"), lstatSync(join(root, "d/.wh")).rdev], ["20000", 0, 0, 0]);
  for (const name of ["d", "d/f", "d/empty", "d/s", "d/c", "d/p"])
    assert.equal(mtime(join(root, name)), META.mtime, name);
  assert.deepEqual([stat("")[0], mtime(root)], ["40750", -1n]);
});

test("xattrs: of files, directories and links; capabilities stay", async (t) => {
  const { s, root } = await setUp(t);
  const capability = Buffer.from("0100000200040000000000000000000000000000", "hex");
  await succeed(
    s,
    root,
    directory("d", { xattrNames: ["trusted.overlay.opaque"], xattrValues: [Buffer.from("y")] }),
    ...file("ping", "binary", {
      mode: 0o755,
      uid: 3,
      xattrNames: ["security.capability", "trusted.a"],
      xattrValues: [capability, Buffer.from([0, 255])],
    }),
    ["symlink", { ...META, path: "l", target: "x", xattrNames: ["trusted.l"], xattrValues: [Buffer.from("v")] }],
  );
  const xattr = (name: string, path: string) =>
    execFileSync("python3", [
      "-c",
      "import os,sys; print(os.getxattr(sys.argv[2], sys.argv[1], follow_symlinks=False).hex())",
      name,
      join(root, path),
    ])
      .toString()
      .trim();
  assert.equal(xattr("trusted.overlay.opaque", "d"), "79");
  assert.equal(xattr("security.capability", "ping"), capability.toString("hex"));
  assert.equal(xattr("trusted.a", "ping"), "00ff");
  assert.equal(xattr("trusted.l", "l"), "76");
});

test("existing entries are replaced, directories merged, missing parents made", async (t) => {
  const { s, root } = await setUp(t);
  await succeed(
    s,
    root,
    directory("dir"),
    ...file("dir/kept", "kept"),
    ...file("file", "old"),
    directory("tree/deep/er"),
    ...file("tree/deep/x", "x"),
    ["symlink", { ...META, path: "link", target: "dir" }],
    ...file("hard", "hard"),
    ["hardlink", { path: "hard2", target: "hard" }],
  );
  await succeed(
    s,
    root,
    directory("dir", { mode: 0o700 }), // merged
    ...file("file", "new"), // a file by a file
    ...file("tree", "now a file"), // a directory by a file
    directory("link"), // a link to a directory by a directory
    ...file("a/b/c/leaf", "leaf"),
    ["hardlink", { path: "hard2", target: "hard" }], // itself
    ["symlink", { ...META, path: "kept-link", target: "dir/kept" }],
    ["node", { ...META, path: "kept-link", mode: 0o10600 }],
  );
  assert.equal(readFileSync(join(root, "dir/kept"), "utf8"), "kept");
  assert.equal(statSync(join(root, "dir")).mode & 0o777, 0o700);
  assert.equal(readFileSync(join(root, "file"), "utf8"), "new");
  assert.equal(readFileSync(join(root, "tree"), "utf8"), "now a file");
  assert.ok(lstatSync(join(root, "link")).isDirectory());
  assert.equal(readFileSync(join(root, "a/b/c/leaf"), "utf8"), "leaf");
  assert.deepEqual([statSync(join(root, "a/b")).mode & 0o777, statSync(join(root, "a/b")).uid], [0o755, 0]);
  assert.equal(readFileSync(join(root, "hard2"), "utf8"), "hard");
  assert.ok(lstatSync(join(root, "kept-link")).isFIFO());
});

test("names are bytes: not UTF-8, with spaces and newlines, long, with slashes and dots around", async (t) => {
  const { s, root } = await setUp(t);
  const odd = Buffer.from([0xff, 0xfe, 0x20, 0x0a, 0x80]);
  await succeed(
    s,
    root,
    ...file(odd, "odd"),
    ...file("./dotted/./x", "x"),
    ...file("/absolute", "abs"),
    directory("trailing/"),
    ...file("n".repeat(255), "long"),
    directory("/"),
    directory("./"),
  );
  assert.ok(readdirSync(root, { encoding: "buffer" }).some((name) => name.equals(odd)));
  assert.equal(readFileSync(join(root, "dotted/x"), "utf8"), "x");
  assert.equal(readFileSync(join(root, "absolute"), "utf8"), "abs");
  assert.ok(statSync(join(root, "trailing")).isDirectory());
});

test("data in pieces and holes; the size is exact", async (t) => {
  const { s, root } = await setUp(t);
  await succeed(
    s,
    root,
    ["file", { ...META, path: "sparse", mode: 0o600, size: 10_000_000n }],
    ["data", { bytes: "start" }],
    ["hole", { length: 8_000_000n }],
    ["data", { bytes: Buffer.alloc(1 << 20, "m") }],
    ["hole", { length: 10_000_000n - 8_000_005n - BigInt(1 << 20) }],
    ...file("after", "after"),
  );
  const bytes = readFileSync(join(root, "sparse"));
  assert.equal(bytes.length, 10_000_000);
  assert.equal(bytes.toString("latin1", 0, 6), "start\0");
  assert.equal(bytes[8_000_005], "m".charCodeAt(0));
  assert.ok(statSync(join(root, "sparse")).blocks * 512 < 3_000_000);
  assert.equal(mtime(join(root, "sparse")), META.mtime);
  assert.equal(readFileSync(join(root, "after"), "utf8"), "after");
});

test("nothing leads outside: absolute and climbing links and names stay in the tree", async (t) => {
  const { s, root } = await setUp(t);
  const outside = join(s.directory, "outside");
  mkdirSync(outside);
  await succeed(
    s,
    root,
    ["symlink", { ...META, path: "abs", target: outside }],
    ...file("abs/a", "a"),
    ["symlink", { ...META, path: "up", target: "../../../../../../.." }],
    ...file("up/b", "b"),
    ...file("../../../../../../c", "c"),
    directory("var"),
    ["symlink", { ...META, path: "var/run", target: "/run" }],
    ...file("var/run/pid", "1"),
  );
  assert.deepEqual(readdirSync(outside), []);
  assert.equal(readFileSync(join(root, outside, "a"), "utf8"), "a");
  assert.equal(readFileSync(join(root, "b"), "utf8"), "b");
  assert.equal(readFileSync(join(root, "c"), "utf8"), "c");
  assert.equal(readFileSync(join(root, "run/pid"), "utf8"), "1");
  symlinkSync(outside, join(root, "final"));
  await succeed(s, root, ...file("final", "replaced, not followed"));
  assert.deepEqual(readdirSync(outside), []);
});

test("failures name the step and the path, and reach a client that is still sending", async (t) => {
  const { s, root } = await setUp(t);
  const { ENOENT, EPROTO, EINVAL, ENOTDIR } = constants.errno;
  const cases: [TreeEntry[], number, RegExp][] = [
    [[...file("f", "x"), ["hardlink", { path: "h", target: "none" }]], ENOENT, /link \/h to \/none/],
    [[...file("f", "x"), ...file("f/below", "x")], ENOTDIR, /\/f\/below/],
    [
      [["file", { ...META, path: "short", mode: 0o644, size: 5n }], ["data", { bytes: "123" }], end],
      EPROTO,
      /\/short lacks 2 bytes/,
    ],
    [
      [
        ["file", { ...META, path: "long", mode: 0o644, size: 2n }],
        ["data", { bytes: "123" }],
      ],
      EPROTO,
      /no file has room/,
    ],
    [[["data", { bytes: "123" }]], EPROTO, /no file/],
    [[["node", { ...META, path: "n", mode: 0o100644 }]], EINVAL, /mknod \/n/],
    [[...file(".", "x")], EINVAL, /open \/\./],
    [[...file("a/..", "x")], EINVAL, /open \/a\/\.\./],
    [
      [directory("x", { xattrNames: ["bogus.name"], xattrValues: [Buffer.from("")] })],
      constants.errno.EOPNOTSUPP,
      /setxattr bogus\.name of \/x/,
    ],
  ];
  for (const [entries, errno, detail] of cases) {
    const report = await write(s, root, [
      ...entries,
      ...Array.from({ length: 200 }, () => file("more", Buffer.alloc(100_000))).flat(),
    ]);
    assert.equal(report["errno"], errno, String(report["detail"]));
    assert.match(String(report["detail"]), detail);
  }
  const link = await s.link();
  await link.refused(ENOENT, "tree", { path: join(root, "missing") });
  await link.end();
});

test("a full disk is reported with the path", async (t) => {
  const { s, root } = await setUp(t);
  const link = await s.link();
  await link.ask("run", "report", {
    plan: plan(["mount", { source: "tmpfs", target: root, fstype: "tmpfs", flags: 0n, data: "size=64k,nr_inodes=20" }]),
  });
  const big = await write(s, root, file("big", Buffer.alloc(1 << 20)));
  assert.deepEqual([big["errno"], big["detail"]], [constants.errno.ENOSPC, "write /big"]);
  const many = await write(
    s,
    root,
    Array.from({ length: 40 }, (_, i) => directory(`d${i}`)),
  );
  assert.equal(many["errno"], constants.errno.ENOSPC);
  assert.match(String(many["detail"]), /mkdir \/d\d+/);
  await link.ask("run", "report", { plan: plan(["unmount", { path: root, flags: 2n }]) });
  await link.end();
});

test("garbage, an early end, a vanished client: the writer ends, serve goes on", async (t) => {
  const { s, root } = await setUp(t);
  const garbage = await open(s, root);
  garbage.socket.write(Buffer.alloc(100_000, 0xee));
  assert.equal((await verdict(garbage))["errno"], constants.errno.EPROTO);
  const cut = await open(s, root);
  cut.socket.end(entry(directory("whole")).subarray(0, 20));
  await once(cut.socket, "end");
  await cut.end();
  await (await open(s, root)).end();
  const slow = await open(s, root, 1000); // the deadline is for the beginning alone
  await new Promise((resolve) => setTimeout(resolve, 1200));
  slow.socket.write(Buffer.concat([...file("slow", "slow"), end].map(entry)));
  assert.equal((await verdict(slow))["errno"], 0);
  const early = await s.link();
  early.socket.write(Buffer.concat([frame("tree", 50, { path: root }), entry(directory("early"))]));
  await until("it is refused", () => early.closed);
  await early.end();
  assert.equal(existsSync(join(root, "early")), false);
  assert.ok(alive(s.process.pid as number));
  await succeed(s, root, ...file("after", "all"));
});

test("11,600 files of 8 KB, synced", async (t) => {
  const { s, root } = await setUp(t);
  const link = await open(s, root);
  const content = Buffer.alloc(8192, "c");
  const parts: Buffer[] = [];
  for (let d = 0; d < 116; d++) {
    parts.push(entry(directory(`d${d}`)));
    for (let f = 0; f < 100; f++) for (const e of file(`d${d}/f${f}`, content)) parts.push(entry(e));
  }
  const stream = Buffer.concat(parts);
  const start = performance.now();
  link.socket.write(stream);
  link.socket.write(entry(["end", { sync: 0 }]));
  assert.equal((await verdict(link))["errno"], 0);
  t.diagnostic(`${Math.round(performance.now() - start)} ms`);
  assert.equal(readdirSync(root).length, 116);
  assert.equal(statSync(join(root, "d115/f99")).size, 8192);
  writeFileSync(join(root, "done"), "");
});
