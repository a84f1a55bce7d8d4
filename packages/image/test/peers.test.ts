/** With the real things: Debian's docker-registry, images pushed by skopeo, and trees compared with what umoci unpacks. */
import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import test from "node:test";
import { dockerRegistry, whyNot } from "./support/docker-registry.ts";
import { build } from "./support/registry.ts";
import { bosunRig, openImages, overlayOf, scratch } from "./support/store.ts";
import { scanRootfs, type Tree } from "./support/scan.ts";
import { archive, type Member } from "./support/tar-writer.ts";
import { umociTree, writeLayout } from "./support/umoci.ts";

function skopeo(...args: readonly string[]): void {
  const done = spawnSync("skopeo", args, { encoding: "utf8" });
  assert.equal(done.status, 0, done.stderr);
}

const time = (seconds: string): Record<string, string> => ({ mtime: seconds });

/** Everything that an image can hold, in three layers with whiteouts. */
const TARS: readonly Buffer[] = [
  archive(
    { name: "./", type: "5", mode: 0o755, pax: time("1000000000.5") },
    { name: "bin", type: "2", link: "usr/bin", pax: time("1111111111.123456789") },
    { name: "usr/", type: "5", mode: 0o755 },
    { name: "usr/bin/", type: "5", mode: 0o755, mtime: 1_400_000_000 },
    { name: "usr/bin/su", data: "suid", mode: 0o4755, pax: time("1500000000.000000001") },
    {
      name: "usr/bin/cap",
      data: "capable",
      mode: 0o755,
      pax: { "SCHILY.xattr.security.capability": Buffer.from("0100000200040000000000000000000000000000", "hex") },
    },
    { name: "usr/bin/hard", type: "1", link: "usr/bin/su" },
    { name: "dir/", type: "5", mode: 0o2770, uid: 100, gid: 200, mtime: 1_234_567_890 },
    { name: "dir/a", data: "a", uid: 100, gid: 200 },
    { name: "dir/b", data: "b", mode: 0o600 },
    { name: "dir/sub/", type: "5", mode: 0o700, mtime: 1_300_000_000 },
    { name: "dir/sub/deep", data: "deep" },
    { name: "opaque/", type: "5", mode: 0o755 },
    { name: "opaque/hidden", data: "x" },
    { name: "replaced/", type: "5", mode: 0o755 },
    { name: "replaced/inside", data: "x" },
    { name: "dev/", type: "5", mode: 0o755 },
    { name: "dev/null", type: "3", mode: 0o666, major: 1, minor: 3 },
    { name: "dev/loop", type: "4", mode: 0o660, gid: 6, major: 7, minor: 0 },
    { name: "fifo", type: "6", mode: 0o622 },
    {
      name: Buffer.from([0x66, 0xff, 0xe4, 0x20]),
      data: "no utf-8",
      pax: { path: Buffer.from([0x66, 0xff, 0xe4, 0x20]) },
    },
    { name: "old", data: "before 1970", pax: time("-1000.25") },
    { name: "user", data: "x", pax: { "SCHILY.xattr.user.note": Buffer.from([0, 1, 0xff]) } },
    {
      name: "sparse",
      data: "12345",
      pax: { "GNU.sparse.size": "2000000", "GNU.sparse.numblocks": "1", "GNU.sparse.map": "1000000,5" },
    },
    { name: "big", data: Buffer.alloc(3_000_000, "content ") },
    { name: "empty", data: "" },
    { name: `${"n".repeat(90)}/`, type: "5", mode: 0o755, pax: { path: `${"n".repeat(200)}/` } },
    { name: "long", data: "x", pax: { path: `${"n".repeat(200)}/${"m".repeat(200)}` } },
  ),
  archive(
    { name: "dir/", type: "5", mode: 0o750, uid: 101, gid: 200, mtime: 1_234_567_891 },
    { name: "dir/.wh.a" },
    { name: "dir/c", data: "c", mtime: 1_600_000_000 },
    { name: "opaque/", type: "5", mode: 0o711, mtime: 1_600_000_001 },
    { name: "opaque/.wh..wh..opq" },
    { name: "opaque/shown", data: "y" },
    { name: "replaced", data: "a file now", mtime: 1_600_000_002 },
    { name: "became/", type: "5", mode: 0o755 },
    { name: "became/.wh.not-there" },
  ),
  archive(
    { name: "dir/", type: "5", mode: 0o755, mtime: 1_234_567_892 },
    { name: "dir/a", data: "a again", mtime: 1_600_000_003 },
    { name: "dir/sub/", type: "5", mode: 0o701, mtime: 1_600_000_004 },
    { name: "dir/sub/.wh.deep" },
    { name: ".wh.fifo" },
    { name: ".wh.big" },
    { name: "became", type: "2", link: "dir" },
  ),
];

test("an image pulled from docker-registry is the tree that umoci unpacks", async (t) => {
  const missing = whyNot("docker-registry", "skopeo", "umoci", "python3", "unshare");
  if (missing !== undefined) return t.skip(missing);
  const directory = scratch(t);
  const built = build(TARS);
  writeLayout(join(directory, "layout"), built, "1");
  const host = await dockerRegistry(t, directory);
  skopeo(
    "copy",
    "--quiet",
    "--insecure-policy",
    "--dest-tls-verify=false",
    `oci:${directory}/layout:1`,
    `docker://${host}/test/all:1`,
  );
  const images = await openImages(t, await bosunRig(t));
  const record = await images.pull(`${host}/test/all:1`);
  assert.equal(record.id, built.id);
  assert.ok(record.digests[0]?.startsWith(`${host}/test/all@sha256:`));
  const rootfs = await images.prepareRootfs("c", record);
  const ours = scanRootfs(t, rootfs);
  const theirs = umociTree(join(directory, "layout"), join(directory, "bundle"));
  assert.deepEqual(ours, theirs);
  const sparse = join(overlayOf(rootfs).lowers.at(-1) as string, "sparse");
  const hole = "import os, sys; print(os.lseek(os.open(sys.argv[1], os.O_RDONLY), 0, os.SEEK_HOLE))";
  const first = execFileSync("python3", ["-c", hole, sparse], { encoding: "utf8" });
  assert.equal(first, "0\n", "what umoci fills with zeros stays a hole");
  assert.deepEqual(
    Object.keys(ours).filter((path) => /fifo|big|hidden|deep$/.test(path)),
    [],
  );
  assert.deepEqual(ours["/usr/bin/cap"]?.["xattrs"], {
    "security.capability": "0100000200040000000000000000000000000000",
  });
  return undefined;
});

test("a base system made by the machine's own packages, pulled and compared", async (t) => {
  const missing = whyNot("docker-registry", "skopeo", "umoci", "python3", "unshare", "tar");
  if (missing !== undefined) return t.skip(missing);
  const directory = scratch(t);
  const host = await dockerRegistry(t, directory);
  // GNU tar's view of some thousand files that every Debian has, in two layers of two dialects.
  const pack = (format: string, ...paths: readonly string[]): Buffer =>
    execFileSync("tar", ["-C", "/", `--format=${format}`, "--xattrs", "-c", ...paths], {
      maxBuffer: 1 << 28,
      stdio: ["ignore", "pipe", "ignore"],
    });
  const built = build([
    pack("gnu", "etc/alternatives", "usr/share/zoneinfo", "usr/share/perl5"),
    pack("pax", "usr/share/terminfo", "usr/share/zoneinfo/Etc", "usr/lib/terminfo", "etc/alternatives"),
  ]);
  writeLayout(join(directory, "layout"), built, "1");
  skopeo(
    "copy",
    "--quiet",
    "--insecure-policy",
    "--dest-tls-verify=false",
    `oci:${directory}/layout:1`,
    `docker://${host}/base:1`,
  );
  const images = await openImages(t, await bosunRig(t));
  const ours = scanRootfs(t, await images.prepareRootfs("c", await images.pull(`${host}/base:1`)));
  const theirs = umociTree(join(directory, "layout"), join(directory, "bundle"));
  assert.ok(Object.keys(ours).length > 500);
  // Directories that no layer mentions have no attributes: umoci gives them the time of unpacking.
  const mentioned = (tree: Tree): Tree =>
    Object.fromEntries(
      Object.entries(tree).filter(([path]) => !["", "/etc", "/usr", "/usr/share", "/usr/lib"].includes(path)),
    );
  assert.deepEqual(mentioned(ours), mentioned(theirs));
  return undefined;
});

test("docker-registry with basic authentication", async (t) => {
  const missing = whyNot("docker-registry", "skopeo", "htpasswd");
  if (missing !== undefined) return t.skip(missing);
  const directory = scratch(t);
  writeFileSync(join(directory, "htpasswd"), execFileSync("htpasswd", ["-Bbn", "user", "secret"]));
  const host = await dockerRegistry(
    t,
    directory,
    `auth:\n  htpasswd:\n    realm: here\n    path: ${directory}/htpasswd\n`,
  );
  const built = build([archive({ name: "f", data: "x" } satisfies Member)]);
  writeLayout(join(directory, "layout"), built, "1");
  skopeo(
    "copy",
    "--quiet",
    "--insecure-policy",
    "--dest-tls-verify=false",
    "--dest-creds",
    "user:secret",
    `oci:${directory}/layout:1`,
    `docker://${host}/a:1`,
  );
  const images = await openImages(t, await bosunRig(t));
  await assert.rejects(images.pull(`${host}/a:1`), { code: "Unauthorized" });
  await assert.rejects(images.pull(`${host}/a:1`, { auth: { username: "user", password: "wrong" } }), {
    code: "Unauthorized",
  });
  assert.equal((await images.pull(`${host}/a:1`, { auth: { username: "user", password: "secret" } })).id, built.id);
  return undefined;
});
