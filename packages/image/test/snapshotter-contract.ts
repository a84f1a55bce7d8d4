/** What every snapshotter must do. A test file calls this with a way to open one. */
import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import { lstatSync, readdirSync, readFileSync, type Stats, statSync, writeFileSync } from "node:fs";
import test, { type TestContext } from "node:test";
import type { TreeWriter } from "@berth/kernel";
import { ImageError, type ImageErrorCode } from "../src/errors.ts";
import { type AppliedLayer, applyLayer } from "../src/layers/apply.ts";
import { ByteReader } from "../src/layers/byte-reader.ts";
import { TarReader } from "../src/layers/tar.ts";
import type { LayerDraft, Snapshotter } from "../src/snapshots/snapshotter.ts";
import type { Rootfs } from "../src/types.ts";
import { archive, type Member } from "./support/tar-writer.ts";

export interface Subject {
  readonly snapshotter: Snapshotter;
  /** Opens what a worker would fill. */
  readonly openTree: (draft: LayerDraft) => Promise<TreeWriter>;
  /** The snapshotter as a new process finds it, before recovery. */
  readonly restart: () => Promise<Snapshotter>;
  /** Whether layers are written as the daemon does: the double on node:fs knows no attributes, and no names that are no UTF-8. */
  readonly whole: boolean;
  /** Runs several collaborators' writes in one transaction. */
  readonly transaction: <T>(work: () => T) => T;
}

const NS = 1_000_000_000n;

function isError(code: ImageErrorCode): (error: unknown) => boolean {
  return (error) => error instanceof ImageError && error.code === code;
}

/** Fills a draft with a layer; resolves to what is to be completed. */
async function fill(
  { openTree }: Subject,
  draft: LayerDraft,
  members: readonly Member[],
  aliases?: ReadonlyMap<string, string>,
): Promise<AppliedLayer> {
  async function* source(): AsyncGenerator<Uint8Array, void, undefined> {
    yield archive(...members);
  }
  const tree = await openTree(draft);
  const applied = await applyLayer(
    new TarReader(new ByteReader(source())),
    tree,
    aliases === undefined ? {} : { aliases },
  );
  await tree.end(false);
  return applied;
}

/** Unpacks and commits layers, lowest first, as chain ids "<name>-0", "<name>-1" …; resolves to the last. */
export async function stack(
  subject: Subject,
  name: string,
  ...layers: readonly (readonly Member[])[]
): Promise<string> {
  const { snapshotter, transaction } = subject;
  const ids = layers.map((_, index) => `${name}-${index}`);
  // Filled at the same time, as a pull does, then completed in order.
  const filled = await Promise.all(
    layers.map(async (members) => {
      const draft = await snapshotter.begin();
      return { draft, members, applied: await fill(subject, draft, members) };
    }),
  );
  for (const [index, layer] of filled.entries()) {
    const below = filled.slice(0, index).map(({ draft }) => draft);
    const aliases = await snapshotter.complete(layer.draft, layer.applied, below);
    if (aliases.size === 0) continue;
    await snapshotter.reset(layer.draft);
    assert.equal(
      (await snapshotter.complete(layer.draft, await fill(subject, layer.draft, layer.members, aliases), below)).size,
      0,
    );
  }
  transaction(() => {
    for (const [index, { draft }] of filled.entries())
      assert.equal(snapshotter.commit(draft, ids[index] as string, ids[index - 1]), true);
  });
  return ids.at(-1) as string;
}

/** Where a container's writes go. */
const writable = (rootfs: Rootfs): string => (rootfs.kind === "path" ? rootfs.path : rootfs.upper);
/** Where the image's topmost layer is seen. */
const top = (rootfs: Rootfs): string => (rootfs.kind === "path" ? rootfs.path : (rootfs.lowers[0] as string));

/** A file's content as the layers show it, each by itself; whiteouts hide. */
function show(rootfs: Rootfs, path: string): string | undefined {
  for (const layer of rootfs.kind === "path" ? [rootfs.path] : rootfs.lowers) {
    const stat = lstatSync(`${layer}/${path}`, { throwIfNoEntry: false });
    if (stat === undefined) continue;
    return stat.isFile() ? readFileSync(`${layer}/${path}`, "utf8") : undefined;
  }
  return undefined;
}

const directory = (name: string, mode = 0o755): Member => ({ name, type: "5", mode });

export function snapshotterContract(name: string, open: (t: TestContext) => Promise<Subject | undefined>): void {
  const contract = (title: string, body: (subject: Subject) => Promise<void>): void => {
    test(`${name}: ${title}`, async (t) => {
      const subject = await open(t);
      if (subject !== undefined) await body(subject);
    });
  };
  const text = async ({ snapshotter }: Subject, chain: string, path: string): Promise<string | undefined> => {
    const bytes = await snapshotter.readFile(chain, path, 1 << 20);
    return bytes === undefined ? undefined : Buffer.from(bytes).toString();
  };

  contract("a layer is there once it is committed, and not before", async (subject) => {
    const { snapshotter } = subject;
    const draft = await snapshotter.begin();
    const applied = await fill(subject, draft, [{ name: "f", data: "x" }]);
    await snapshotter.complete(draft, applied, []);
    assert.equal(snapshotter.has("one"), false);
    subject.transaction(() => snapshotter.commit(draft, "one", undefined));
    assert.equal(snapshotter.has("one"), true);
    assert.equal(await text(subject, "one", "f"), "x");
    assert.deepEqual(
      snapshotter.list().map(({ kind, chainId }) => [kind, chainId]),
      [["layer", "one"]],
    );
    assert.ok((snapshotter.list()[0]?.usage.inodes ?? 0) >= 2);
  });

  contract("the second of two that bring the same layer leaves it to the first", async (subject) => {
    const { snapshotter, transaction } = subject;
    await stack(subject, "same", [{ name: "f", data: "first" }]);
    const draft = await snapshotter.begin();
    await snapshotter.complete(draft, await fill(subject, draft, [{ name: "f", data: "second" }]), []);
    assert.equal(
      transaction(() => snapshotter.commit(draft, "same-0", undefined)),
      false,
    );
    await snapshotter.abandon(draft);
    assert.equal(await text(subject, "same-0", "f"), "first");
    assert.equal(snapshotter.list().length, 1);
  });

  contract("a commit is part of its transaction", async (subject) => {
    const { snapshotter, transaction } = subject;
    const draft = await snapshotter.begin();
    await snapshotter.complete(draft, await fill(subject, draft, [{ name: "f" }]), []);
    assert.throws(
      () =>
        transaction(() => {
          snapshotter.commit(draft, "undone", undefined);
          throw new Error("power cut");
        }),
      /power cut/,
    );
    assert.equal(snapshotter.has("undone"), false);
    transaction(() => snapshotter.commit(draft, "undone", undefined));
    assert.equal(snapshotter.has("undone"), true);
  });

  contract("layers are merged: whiteouts, opaque directories, replaced entries", async (subject) => {
    const top = await stack(
      subject,
      "merge",
      [
        directory("d/"),
        { name: "d/a", data: "1" },
        { name: "d/b", data: "1" },
        directory("o/"),
        { name: "o/a", data: "1" },
        { name: "f", data: "1" },
        directory("r/"),
        { name: "r/x", data: "1" },
      ],
      [
        directory("d/"),
        { name: "d/.wh.a" },
        { name: "d/c", data: "2" },
        directory("o/"),
        { name: "o/.wh..wh..opq" },
        { name: "o/b", data: "2" },
        { name: "r", data: "file now" },
      ],
      [{ name: "d/a", data: "3" }, { name: ".wh.f" }, directory("r/")],
    );
    const view = async (chain: string): Promise<(string | undefined)[]> =>
      await Promise.all(
        ["d/a", "d/b", "d/c", "o/a", "o/b", "f", "r", "r/x"].map(async (path) => await text(subject, chain, path)),
      );
    assert.deepEqual(await view("merge-0"), ["1", "1", undefined, "1", undefined, "1", undefined, "1"]);
    assert.deepEqual(await view("merge-1"), [undefined, "1", "2", undefined, "2", "1", "file now", undefined]);
    assert.deepEqual(await view(top), ["3", "1", "2", undefined, "2", undefined, undefined, undefined]);
  });

  contract("an opaque root hides all beneath", async (subject) => {
    const top = await stack(
      subject,
      "root",
      [{ name: "old", data: "1" }],
      [{ name: ".wh..wh..opq" }, { name: "new", data: "2" }],
    );
    assert.deepEqual([await text(subject, top, "old"), await text(subject, top, "new")], [undefined, "2"]);
    const rootfs = await subject.snapshotter.prepare("k", top);
    assert.deepEqual([show(rootfs, "old"), show(rootfs, "new")], [undefined, "2"]);
  });

  contract("files are read through symlinks within the layers, and nothing outside of them", async (subject) => {
    const top = await stack(
      subject,
      "links",
      [
        directory("usr/"),
        directory("usr/etc/"),
        { name: "usr/etc/passwd", data: "root" },
        { name: "etc", type: "2", link: "usr/etc" },
        { name: "out", type: "2", link: "../../../../etc/passwd" },
        { name: "abs", type: "2", link: "/etc/passwd" },
        { name: "loop", type: "2", link: "loop" },
        { name: "fifo", type: "6" },
      ],
      [
        { name: "more", type: "2", link: "abs" },
        { name: "gone", type: "2", link: "nowhere" },
      ],
    );
    for (const path of ["etc/passwd", "/etc/passwd", "out", "abs", "more", "./usr/../etc/passwd"])
      assert.equal(await text(subject, top, path), "root", path);
    for (const path of ["loop", "gone", "fifo", "usr", "etc/passwd/x", "absent", ""])
      assert.equal(await text(subject, top, path), undefined, path);
    await assert.rejects(subject.snapshotter.readFile(top, "abs", 3), isError("LimitExceeded"));
    await assert.rejects(subject.snapshotter.readFile("no such chain", "abs", 3), isError("NotFound"));
  });

  contract("a layer that goes through a lower layer's symlink lands behind it", async (subject) => {
    const top = await stack(
      subject,
      "usrmerge",
      [
        directory("usr/"),
        directory("usr/lib/", 0o711),
        { name: "lib", type: "2", link: "usr/lib" },
        { name: "usr/lib/old", data: "1" },
        { name: "usr/lib/gone", data: "1" },
      ],
      [{ name: "lib/new", data: "2" }, { name: "lib/.wh.gone" }],
    );
    assert.equal(await text(subject, top, "usr/lib/new"), "2");
    assert.equal(await text(subject, top, "lib/new"), "2");
    assert.equal(await text(subject, top, "lib/old"), "1");
    assert.equal(await text(subject, top, "lib/gone"), undefined);
  });

  contract("a hard link into a lower layer is made; one to nothing is refused", async (subject) => {
    const top = await stack(
      subject,
      "hard",
      [directory("d/"), { name: "d/file", data: "linked", mode: 0o640 }],
      [
        { name: "link", type: "1", link: "d/file" },
        { name: "again", type: "1", link: "d/file" },
      ],
    );
    assert.equal(await text(subject, top, "link"), "linked");
    assert.equal(await text(subject, top, "again"), "linked");
    await assert.rejects(
      stack(subject, "nothing", [{ name: "x" }], [{ name: "link", type: "1", link: "absent" }]),
      isError("InvalidImage"),
    );
    await assert.rejects(
      stack(subject, "lowest", [{ name: "link", type: "1", link: "absent" }]),
      isError("InvalidImage"),
    );
  });

  contract("writable layers: prepared once, found again, measured, removed", async (subject) => {
    const { snapshotter } = subject;
    const chain = await stack(
      subject,
      "rw",
      [{ name: "./", type: "5", mode: 0o711, uid: 12, gid: 34 }],
      [{ name: "f" }],
    );
    const rootfs = await snapshotter.prepare("key", chain);
    assert.equal(show(rootfs, "f"), "");
    assert.deepEqual(snapshotter.rootfs("key"), rootfs);
    await assert.rejects(snapshotter.prepare("key", chain), isError("InUse"));
    await assert.rejects(snapshotter.prepare("other", "no such chain"), isError("NotFound"));
    const { mode, uid, gid } = statSync(writable(rootfs));
    assert.deepEqual([mode & 0o7777, uid, gid], [0o711, 12, 34], "the root looks like the image's");
    writeFileSync(`${writable(rootfs)}/written`, Buffer.alloc(100_000, 1));
    const used = await snapshotter.usage("key");
    const names = readdirSync(writable(rootfs), { recursive: true });
    assert.equal(used.inodes, names.length + 1);
    assert.ok(used.bytes >= 100_000 && used.bytes < 200_000, String(used.bytes));
    await snapshotter.remove("key");
    await snapshotter.remove("key");
    assert.equal(snapshotter.rootfs("key"), undefined);
    await assert.rejects(snapshotter.usage("key"), isError("NotFound"));
  });

  contract("a writable layer on nothing", async ({ snapshotter }) => {
    const rootfs = await snapshotter.prepare("empty", undefined);
    assert.deepEqual(readdirSync(writable(rootfs)), []);
    await snapshotter.remove("empty");
    assert.deepEqual(snapshotter.list(), []);
  });

  contract("collection keeps what is named, what is beneath it, and what is in use", async (subject) => {
    const { snapshotter, transaction } = subject;
    const kept = await stack(subject, "kept", [{ name: "a" }], [{ name: "b" }]);
    const used = await stack(subject, "used", [{ name: "a" }], [{ name: "b" }]);
    await stack(subject, "gone", [{ name: "a" }], [{ name: "b" }]);
    await snapshotter.prepare("container", used);
    const draft = await snapshotter.begin();
    const collect = async (keep: string[]): Promise<number> => {
      assert.equal(snapshotter.hasUnused(new Set(keep)), true);
      const count = transaction(() => snapshotter.collect(new Set(keep)));
      await snapshotter.sweep();
      assert.equal(snapshotter.hasUnused(new Set(keep)), false);
      return count;
    };
    assert.equal(await collect([kept]), 2);
    assert.deepEqual(
      ["kept-0", "kept-1", "used-0", "used-1", "gone-0", "gone-1"].map((chain) => snapshotter.has(chain)),
      [true, true, true, true, false, false],
    );
    await snapshotter.remove("container");
    assert.equal(await collect(["kept-0"]), 3);
    await snapshotter.abandon(draft);
    assert.equal(await collect([]), 1);
    assert.deepEqual(snapshotter.list(), []);
    assert.deepEqual(await snapshotter.recover(), [], "nothing is left on disk");
  });

  contract("after a crash, drafts go and the rest stays", async (subject) => {
    const chain = await stack(subject, "stays", [{ name: "a", data: "1" }]);
    const rootfs = await subject.snapshotter.prepare("container", chain);
    const draft = await subject.snapshotter.begin();
    await fill(subject, draft, [{ name: "half" }]);
    const again = await subject.restart();
    const done = await again.recover();
    assert.ok(
      done.some((line) => line.includes(String(draft.id))),
      done.join("; "),
    );
    assert.deepEqual(
      again.list().map(({ kind }) => kind),
      ["layer", "active"],
    );
    assert.deepEqual(again.rootfs("container"), rootfs);
    assert.equal(Buffer.from((await again.readFile(chain, "a", 10)) ?? "").toString(), "1");
    assert.deepEqual(await again.recover(), []);
  });

  contract("times of directories that a layer only implies are the lower layer's", async (subject) => {
    const chain = await stack(
      subject,
      "implied",
      [{ ...directory("d/", 0o2750), uid: 5, gid: 6, mtime: 1_500_000_000 }, directory("d/e/", 0o700)],
      [{ name: "d/e/f" }],
    );
    const rootfs = await subject.snapshotter.prepare("implied", chain);
    const stat = statSync(`${top(rootfs)}/d`, { bigint: true });
    assert.deepEqual(
      [Number(stat.mode & 0o7777n), stat.uid, stat.gid, stat.mtimeNs],
      [0o2750, 5n, 6n, 1_500_000_000n * NS],
    );
  });

  contract("links, holes, devices, capabilities and names of any bytes are there for a container", async (subject) => {
    const capability = Buffer.from("0100000200040000000000000000000000000000", "hex");
    const strange = Buffer.from([0xff, 0xfe, 0x20, 0x0a, 0x80]);
    const sparse = { "GNU.sparse.size": "5000000", "GNU.sparse.numblocks": "1", "GNU.sparse.map": "4000000,4" };
    const chain = await stack(subject, "kinds", [
      { name: "file", data: "x", mode: 0o4755, uid: 70_000, pax: { "SCHILY.xattr.security.capability": capability } },
      { name: "hard", type: "1", link: "file" },
      { name: "sparse", data: "tail", pax: sparse },
      { name: "null", type: "3", mode: 0o666, major: 1, minor: 3 },
      { name: "disk", type: "4", mode: 0o660, major: 8, minor: 300 },
      { name: "fifo", type: "6" },
      { name: "n", data: "named", pax: { path: strange } },
    ]);
    const at = top(await subject.snapshotter.prepare("kinds", chain));
    const [file, hard, holes] = ["file", "hard", "sparse"].map((name) => lstatSync(`${at}/${name}`)) as [
      Stats,
      Stats,
      Stats,
    ];
    assert.deepEqual([file.ino, file.nlink, file.mode & 0o7777, file.uid], [hard.ino, 2, 0o4755, 70_000]);
    assert.equal(holes.size, 5_000_000);
    assert.ok(holes.blocks * 512 < 1_000_000 || subject.snapshotter.name === "erofs", "holes take no room");
    assert.deepEqual(readFileSync(`${at}/sparse`).subarray(4_000_000, 4_000_004).toString(), "tail");
    assert.equal(
      readFileSync(`${at}/sparse`).every((byte, index) => byte === 0 || (index >= 4_000_000 && index < 4_000_004)),
      true,
    );
    assert.deepEqual(
      ["null", "disk", "fifo"].map((name) => [lstatSync(`${at}/${name}`).mode >> 12, lstatSync(`${at}/${name}`).rdev]),
      [
        [2, 0x103],
        [6, (8 << 8) | (300 & 0xff) | ((300 >> 8) << 20)],
        [1, 0],
      ],
    );
    if (!subject.whole) return;
    assert.equal(readFileSync(Buffer.concat([Buffer.from(`${at}/`), strange]), "utf8"), "named");
    if (spawnSync("sh", ["-c", "command -v getfattr"]).status === 0)
      assert.deepEqual(
        execFileSync("getfattr", ["--only-values", "--absolute-names", "-n", "security.capability", `${at}/file`]),
        capability,
      );
  });
}
