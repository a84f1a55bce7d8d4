/** Files written in large pieces: past the page cache where that works, and the same where not. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { constants, existsSync, mkdirSync, openSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import test from "node:test";
import { BLOCK_SIZE, giveBlock, takeBlock } from "../src/erofs/blocks.ts";
import { Output } from "../src/erofs/output.ts";
import { scratch } from "./support/store.ts";

for (const direct of [true, false]) {
  for (const size of [0, 1, 4096, 5000, BLOCK_SIZE, 2 * BLOCK_SIZE + 777]) {
    for (const directory of ["/var/tmp", "/dev/shm"]) {
      const absent = existsSync(directory) ? {} : { skip: `no ${directory}` };
      test(`${size} bytes${direct ? ", direct," : ""} in ${directory}`, absent, async (t) => {
        const path = join(scratch(t, directory), "file");
        const bytes = randomBytes(size);
        const output = await Output.open(path, { direct });
        for (let at = 0; at < size; at += 70_001) await output.write(bytes.subarray(at, at + 70_001));
        assert.equal(output.position, size);
        await output.end(undefined, true);
        await output.close();
        assert.ok(readFileSync(path).equals(bytes));
      });
    }
  }
}

const needsRoot = process.getuid?.() === 0 ? {} : { skip: "needs root: a file system without O_DIRECT is mounted" };

test("where a file system has no O_DIRECT, the file is written without", needsRoot, async (t) => {
  const directory = join(scratch(t), "ramfs");
  mkdirSync(directory);
  execFileSync("mount", ["-t", "ramfs", "berth-test", directory]);
  const path = join(directory, "file");
  assert.throws(() => openSync(join(directory, "probe"), constants.O_DIRECT | constants.O_CREAT), { code: "EINVAL" });
  const bytes = randomBytes(BLOCK_SIZE + 5);
  const output = await Output.open(path, { direct: true });
  await output.write(bytes);
  await output.end(undefined, true);
  await output.close();
  assert.ok(readFileSync(path).equals(bytes));
});

test("a file that exists is not written over; one that is gone on with is", async (t) => {
  const path = join(scratch(t), "file");
  writeFileSync(path, "0123456789");
  await assert.rejects(Output.open(path, { direct: true }), { code: "EEXIST" });
  await assert.rejects(Output.open(path), { code: "EEXIST" });
  const output = await Output.open(path, { at: 4 });
  await output.write(Buffer.from("abc"));
  await output.end(Buffer.from("X"), false);
  await output.close();
  assert.equal(readFileSync(path, "utf8"), "X123abc");
});

test("blocks are used again, and each has one owner", () => {
  const blocks = [takeBlock(), takeBlock()];
  assert.notEqual(blocks[0], blocks[1]);
  assert.equal(blocks[0]?.length, BLOCK_SIZE);
  for (const block of blocks) giveBlock(block);
  assert.deepEqual(new Set([takeBlock(), takeBlock()]), new Set(blocks));
});
