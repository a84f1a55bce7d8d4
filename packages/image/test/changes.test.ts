/** What a container has changed, from an overlay's upper directory to a layer and back. Needs root, for whiteouts and their attributes. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync, linkSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { ByteReader } from "../src/layers/byte-reader.ts";
import { layerOf } from "../src/layers/changes-job.ts";
import { TarReader, type TarEntry } from "../src/layers/tar.ts";

const sh = (script: string): void => {
  const { status, stderr } = spawnSync("sh", ["-ec", script], { encoding: "utf8" });
  assert.equal(status, 0, stderr);
};

async function* once(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  // In odd pieces, as a pipe may bring them.
  for (let at = 0; at < bytes.length; at += 700) yield await Promise.resolve(bytes.subarray(at, at + 700));
}

async function collected(source: AsyncIterable<Uint8Array>): Promise<Buffer> {
  const chunks: Uint8Array[] = [];
  for await (const chunk of source) chunks.push(chunk);
  return Buffer.concat(chunks);
}

const skip =
  process.getuid?.() !== 0
    ? "needs root"
    : spawnSync("setfattr", ["--version"]).status !== 0
      ? "needs setfattr"
      : false;

test("whiteouts and opaque directories are told as layers tell them; all else stays", { skip }, async () => {
  const directory = mkdtempSync(join(tmpdir(), "berth-changes-"));
  try {
    const upper = join(directory, "upper");
    mkdirSync(join(upper, "again"), { recursive: true });
    const long = `${"long".repeat(40)}-gone`;
    writeFileSync(join(upper, "plain"), "content");
    linkSync(join(upper, "plain"), join(upper, "linked"));
    writeFileSync(join(upper, "again/inside"), Buffer.alloc(3000, 7));
    sh(`cd ${upper}
mknod gone c 0 0; mknod again/${long} c 0 0; mknod device c 1 3; truncate -s 10M sparse; echo end >>sparse
setfattr -n trusted.overlay.opaque -v y again; setfattr -n trusted.overlay.impure -v y .
setfattr -n user.kept -v value plain
tar --format=posix --xattrs --xattrs-include='*' --numeric-owner --sparse -C ${upper} -cf ${directory}/raw.tar .`);
    const raw = readFileSync(join(directory, "raw.tar"));
    const layer = await collected(layerOf(new ByteReader(once(raw))));
    assert.ok(layer.length < statSync(join(directory, "raw.tar")).size + 20_000);
    const tar = new TarReader(new ByteReader(once(layer)));
    const entries = new Map<string, TarEntry>();
    for (let entry = await tar.next(); entry !== undefined; entry = await tar.next())
      entries.set(Buffer.from(entry.path).toString().replace(/^\.\//, "").replace(/\/$/, ""), entry);
    for (const name of [".wh.gone", `again/.wh.${long}`, "again/.wh..wh..opq"])
      assert.deepEqual([entries.get(name)?.type, entries.get(name)?.size], ["file", 0], name);
    assert.ok(!entries.has("gone") && !entries.has(`again/${long}`));
    assert.deepEqual([...(entries.get("again")?.xattrs.keys() ?? [])], []);
    const kept = [entries.get("plain"), entries.get("linked")].find((one) => one?.type === "file");
    assert.equal(Buffer.from(kept?.xattrs.get("user.kept") ?? []).toString(), "value");
    assert.equal([entries.get("plain"), entries.get("linked")].filter((one) => one?.type === "hardlink").length, 1);
    assert.deepEqual([entries.get("device")?.type, entries.get("device")?.minor], ["character", 3]);
    assert.equal(entries.get("sparse")?.size, 10 * 2 ** 20 + 4);
    assert.equal(entries.get("again/inside")?.size, 3000);
  } finally {
    rmSync(directory, { recursive: true });
  }
});

test("an archive that ends too early is no layer", { skip }, async () => {
  const { stdout } = spawnSync("tar", ["--format=posix", "-C", "/etc", "-cf", "-", "passwd"]);
  await assert.rejects(collected(layerOf(new ByteReader(once(stdout.subarray(0, 1700))))), /ends within the entry/);
});
