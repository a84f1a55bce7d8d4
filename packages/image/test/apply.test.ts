/** What a layer's entries become: whiteouts, replaced entries, paths through links, implied directories, limits. */
import assert from "node:assert/strict";
import test from "node:test";
import fc from "fast-check";
import { ImageError } from "../src/errors.ts";
import { type AppliedLayer, applyLayer, type ApplyOptions } from "../src/layers/apply.ts";
import { ByteReader } from "../src/layers/byte-reader.ts";
import { TarReader } from "../src/layers/tar.ts";
import { archive, type Member } from "./support/tar-writer.ts";
import { MemoryTree } from "./support/trees.ts";

async function apply(
  members: readonly Member[],
  options: ApplyOptions = {},
): Promise<{ tree: MemoryTree; applied: AppliedLayer }> {
  const tree = new MemoryTree();
  async function* source(): AsyncGenerator<Uint8Array, void, undefined> {
    yield archive(...members);
  }
  const applied = await applyLayer(new TarReader(new ByteReader(source())), tree, options);
  return { tree, applied };
}

const directory = (name: string, mode = 0o755): Member => ({ name, type: "5", mode });
const isWhiteout = (tree: MemoryTree, path: string): boolean => {
  const made = tree.made.get(path);
  return made?.kind === "node" && made.mode === 0o020000 && made.major === 0 && made.minor === 0;
};
const opaqueness = (tree: MemoryTree, path: string): string | undefined => {
  const value = tree.made.get(path)?.meta?.xattrs?.get("trusted.overlay.opaque");
  return value === undefined ? undefined : Buffer.from(value).toString();
};

test("a whiteout becomes device 0:0", async () => {
  const { tree } = await apply([directory("etc/"), { name: "etc/.wh.passwd" }, { name: ".wh.top" }]);
  assert.ok(isWhiteout(tree, "etc/passwd"));
  assert.ok(isWhiteout(tree, "top"));
  assert.ok(![...tree.made.keys()].some((name) => name.includes(".wh.")));
});

test("an opaque marker becomes overlayfs's attribute, before, after and without the directory's entry", async () => {
  for (const members of [
    [directory("d/", 0o711), { name: "d/.wh..wh..opq" }],
    [{ name: "d/.wh..wh..opq" }, directory("d/", 0o711)],
  ]) {
    const { tree, applied } = await apply(members);
    assert.equal(opaqueness(tree, "d"), "y");
    assert.equal(tree.made.get("d")?.mode, 0o711);
    assert.deepEqual(applied.opaque, ["d"]);
  }
  const { tree, applied } = await apply([{ name: "d/.wh..wh..opq" }, { name: "d/file" }]);
  assert.equal(opaqueness(tree, "d"), "y");
  assert.deepEqual(applied.implied, ["", "d"]);
});

test("an opaque root is reported and not written", async () => {
  const { tree, applied } = await apply([{ name: ".wh..wh..opq" }, { name: "./", type: "5", mode: 0o700 }]);
  assert.deepEqual(applied.opaque, [""]);
  assert.equal(opaqueness(tree, "."), undefined);
  assert.equal(tree.made.get(".")?.mode, 0o700);
});

test("a whiteout hides lower layers only, wherever in the archive it comes", async () => {
  for (const members of [
    [{ name: "x", data: "new" }, { name: ".wh.x" }],
    [{ name: ".wh.x" }, { name: "x", data: "new" }],
  ]) {
    const { tree } = await apply(members);
    assert.equal(tree.made.get("x")?.data?.toString(), "new");
  }
  for (const members of [
    [directory("d/", 0o700), { name: "d/f" }, { name: ".wh.d" }],
    [{ name: ".wh.d" }, directory("d/", 0o700), { name: "d/f" }],
  ]) {
    const { tree, applied } = await apply(members);
    assert.equal(opaqueness(tree, "d"), "y", "what a lower d has in it stays hidden");
    assert.equal(tree.made.get("d")?.mode, 0o700);
    assert.ok(tree.made.has("d/f"));
    assert.deepEqual(applied.opaque, ["d"]);
  }
  const { tree, applied } = await apply([{ name: ".wh.d" }, { name: "d/f" }]);
  assert.equal(opaqueness(tree, "d"), "y");
  assert.deepEqual(applied.implied, [""], "a removed directory has no attributes to inherit");
});

test("AUFS's own files are left out", async () => {
  const { tree } = await apply([
    { name: ".wh..wh.aufs" },
    directory(".wh..wh.plnk/"),
    { name: ".wh..wh.plnk/12.34" },
    { name: "kept" },
  ]);
  assert.deepEqual([...tree.made.keys()], ["kept"]);
});

test("whiteouts that name nothing are refused", async () => {
  for (const name of [".wh.", "d/.wh..", "d/.wh..."])
    await assert.rejects(apply([{ name }]), (error) => error instanceof ImageError && error.code === "InvalidImage");
});

test("a device 0:0 in the archive is a whiteout too, for what comes after it", async () => {
  const { tree, applied } = await apply([{ name: "d", type: "3", major: 0, minor: 0 }, directory("d/")]);
  assert.equal(opaqueness(tree, "d"), "y");
  assert.deepEqual(applied.opaque, ["d"]);
});

test("paths are made canonical and cannot lead out", async () => {
  const { tree } = await apply([
    { name: "/abs" },
    { name: "./dot" },
    { name: "../../up" },
    { name: "a/../../b" },
    { name: "c//d/./e" },
    { name: "../.." },
  ]);
  assert.deepEqual([...tree.made.keys()].sort(), ["abs", "b", "c", "c/d", "c/d/e", "dot", "up"]);
});

test("entries go through symlinks of the layer, inside it", async () => {
  const { tree } = await apply([
    { name: "bin", type: "2", link: "usr/bin" },
    { name: "bin/sh", data: "1" },
    { name: "etc", type: "2", link: "/../../conf" },
    { name: "etc/passwd", data: "2" },
    { name: "a/b", type: "2", link: "../c/d" },
    { name: "a/b/e", data: "3" },
    { name: "usr/lib", type: "2", link: ".." },
    { name: "usr/lib/x", data: "4" },
  ]);
  for (const [path, data] of [
    ["usr/bin/sh", "1"],
    ["conf/passwd", "2"],
    ["c/d/e", "3"],
    ["x", "4"],
  ] as const)
    assert.equal(tree.made.get(path)?.data?.toString(), data, path);
});

test("a loop of symlinks and a file in the way are refused", async () => {
  await assert.rejects(
    apply([{ name: "a", type: "2", link: "b" }, { name: "b", type: "2", link: "a" }, { name: "a/x" }]),
    /more than 40 symlinks/,
  );
  await assert.rejects(apply([{ name: "f" }, { name: "f/x" }]), /is no directory/);
});

test("later entries replace earlier ones", async () => {
  const { tree } = await apply([
    directory("d/"),
    { name: "d/old" },
    { name: "d", data: "file now" },
    { name: "l", type: "2", link: "/elsewhere" },
    directory("l/", 0o700),
    { name: "l/in" },
    directory("k/", 0o700),
    { name: "k/kept" },
    directory("k/", 0o711),
  ]);
  assert.equal(tree.made.get("d")?.data?.toString(), "file now");
  assert.equal(tree.made.has("d/old"), false);
  assert.equal(tree.made.get("l")?.kind, "directory");
  assert.ok(tree.made.has("l/in"));
  assert.equal(tree.made.get("k")?.mode, 0o711);
  assert.ok(tree.made.has("k/kept"));
});

test("hard links go to what the layer has; others are reported, unless they were replaced", async () => {
  const { tree, applied } = await apply([
    { name: "a", data: "x" },
    { name: "b", type: "1", link: "./a" },
    { name: "c", type: "1", link: "lower/file" },
    { name: "d", type: "1", link: "gone" },
    { name: "d", data: "own" },
    { name: "s", type: "2", link: "a" },
    { name: "t", type: "1", link: "s" },
    { name: "e", type: "1", link: "c" },
    { name: "self", data: "1" },
    { name: "self", type: "1", link: "self" },
  ]);
  assert.deepEqual(tree.made.get("b"), { kind: "hardlink", target: "a" });
  assert.deepEqual(tree.made.get("t"), { kind: "hardlink", target: "s" });
  assert.equal(tree.made.get("self")?.data?.toString(), "1");
  assert.deepEqual(applied.missingLinks, [
    { path: "c", target: "lower/file" },
    { path: "e", target: "c" },
  ]);
  await assert.rejects(apply([directory("d/"), { name: "l", type: "1", link: "d" }]), /to the directory/);
  await assert.rejects(apply([{ name: "l", type: "1", link: "." }]), /to the root/);
});

test("directories that are not mentioned are reported", async () => {
  const { tree, applied } = await apply([{ name: "a/b/c" }, directory("a/"), { name: "x/y" }]);
  assert.deepEqual([...applied.implied].sort(), ["", "a/b", "x"]);
  assert.equal(tree.made.get("a/b")?.mode, 0o755);
});

test("aliases lead through symlinks of lower layers", async () => {
  const { tree, applied } = await apply([{ name: "lib/x" }, { name: "lib/.wh.y" }], {
    aliases: new Map([["lib", "usr/lib"]]),
  });
  assert.deepEqual([...tree.made.keys()], ["usr", "usr/lib", "usr/lib/x", "usr/lib/y"]);
  assert.deepEqual([...applied.implied].sort(), ["", "usr", "usr/lib"]);
});

const CAPABILITY = Buffer.from("0100000200040000000000000000000000000000", "hex");

test("attributes that the kernel would not take are left out or refused, as it would", async () => {
  const kept = async (type: string, name: string, value: Uint8Array): Promise<boolean> => {
    const entry = { name: "f", type, link: "x", pax: { [`SCHILY.xattr.${name}`]: value } };
    const { tree } = await apply([entry]);
    return tree.made.get("f")?.meta?.xattrs?.has(name) ?? false;
  };
  const any = Buffer.from([0, 255]);
  for (const type of ["0", "5"]) assert.equal(await kept(type, "user.a", any), true);
  for (const type of ["2", "6"]) assert.equal(await kept(type, "user.a", any), false, type);
  for (const type of ["0", "2", "5", "6"]) assert.equal(await kept(type, "trusted.a", any), true);
  assert.equal(await kept("0", "strange.a", any), false);
  assert.equal(await kept("0", "security.capability", CAPABILITY), true);
  assert.equal(await kept("0", "system.posix_acl_access", Buffer.from("0200000001000700ffffffff", "hex")), true);
  for (const [name, value] of [
    ["security.capability", any],
    ["security.capability", CAPABILITY.subarray(0, 12)],
    ["system.posix_acl_default", any],
    ["user.", any],
  ] as const)
    await assert.rejects(kept("0", name, value), /no file can have/, name);
});

test("an owner of -1 is root, as where chown(2) leaves it alone", async () => {
  const { tree } = await apply([{ name: "f", pax: { uid: "4294967295", gid: "4294967294" } }]);
  assert.deepEqual([tree.made.get("f")?.meta?.uid, tree.made.get("f")?.meta?.gid], [0, 4_294_967_294]);
});

test("metadata and attributes come along, overlayfs's own do not", async () => {
  const { tree } = await apply([
    {
      name: "f",
      mode: 0o4751,
      uid: 7,
      gid: 8,
      pax: {
        mtime: "12.000000345",
        "SCHILY.xattr.security.capability": CAPABILITY,
        "SCHILY.xattr.trusted.overlay.redirect": "/etc",
      },
    },
  ]);
  const made = tree.made.get("f");
  assert.equal(made?.mode, 0o4751);
  assert.deepEqual([made?.meta?.uid, made?.meta?.gid, made?.meta?.mtime], [7, 8, 12_000_000_345n]);
  assert.deepEqual([...(made?.meta?.xattrs?.keys() ?? [])], ["security.capability"]);
});

test("limits name themselves", async () => {
  const limited = (error: unknown, name: string): boolean =>
    error instanceof ImageError && error.code === "LimitExceeded" && error.message.includes(name);
  await assert.rejects(apply([{ name: "a" }, { name: "b" }], { limits: { entries: 1, bytes: 10 } }), (error) =>
    limited(error, "layer.entries"),
  );
  await assert.rejects(apply([{ name: "a", data: "12345678901" }], { limits: { entries: 5, bytes: 10 } }), (error) =>
    limited(error, "layer.bytes"),
  );
  await assert.rejects(apply([{ name: "x", pax: { path: "p/".repeat(3000) } }]), /path of 6000 bytes/);
});

test("usage counts blocks and inodes", async () => {
  const { applied } = await apply([
    directory("d/"),
    { name: "d/f", data: Buffer.alloc(5000) },
    { name: "d/g", type: "1", link: "d/f" },
    { name: "s", type: "2", link: "x" },
  ]);
  assert.equal(applied.inodes, 4, "root, d, f and s");
  assert.equal(applied.bytes, 4096 + 8192);
});

const name = fc
  .array(fc.constantFrom("a", "b", "c", "..", ".", ".wh.a", ".wh.b", ".wh..wh..opq", ""), {
    minLength: 1,
    maxLength: 4,
  })
  .map((parts) => parts.join("/"));
const anyMember: fc.Arbitrary<Member> = fc
  .record({ name, type: fc.constantFrom("0", "1", "2", "3", "5", "6"), link: name, data: fc.constant("") })
  .map((entry) => (entry.type === "3" ? { ...entry, major: 1, minor: 3 } : entry));

test("property: whatever a layer holds, every path written is canonical and inside, its parents are directories, and it is no whiteout's name", async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(anyMember, { maxLength: 12 }), async (members) => {
      let result;
      try {
        result = await apply(members);
      } catch (error) {
        assert.ok(error instanceof ImageError, String(error));
        return;
      }
      const { tree, applied } = result;
      for (const path of tree.made.keys()) {
        if (path === ".") continue;
        const parts = path.split("/");
        assert.ok(
          parts.every((part) => part !== "" && part !== "." && part !== ".." && !part.startsWith(".wh.")),
          path,
        );
        for (let end = 1; end < parts.length; end++)
          assert.equal(tree.made.get(parts.slice(0, end).join("/"))?.kind, "directory", `parent of ${path}`);
      }
      for (const path of applied.opaque) if (path !== "") assert.equal(opaqueness(tree, path), "y", path);
    }),
    { numRuns: 2000 },
  );
});
