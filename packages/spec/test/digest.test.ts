import assert from "node:assert/strict";
import test from "node:test";
import { chainIds, digestOf, InvalidDigest, isDigest, parseDigest, verifyDigest } from "../src/digest.ts";

const EMPTY = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

test("digests are computed, parsed and verified", () => {
  assert.equal(digestOf(new Uint8Array(0)), EMPTY);
  assert.deepEqual(parseDigest(EMPTY), { algorithm: "sha256", hex: EMPTY.slice(7) });
  assert.equal(verifyDigest(EMPTY, new Uint8Array(0)), true);
  assert.equal(verifyDigest(EMPTY, new Uint8Array(1)), false);
  const long = digestOf(Buffer.from("x"), "sha512");
  assert.equal(long.length, "sha512:".length + 128);
  assert.equal(verifyDigest(long, Buffer.from("x")), true);
});

for (const bad of [
  "",
  "sha256",
  "sha256:",
  ":abc",
  "sha256:abc",
  EMPTY.toUpperCase(),
  `${EMPTY}0`,
  EMPTY.replace("sha256", "md5"),
  `sha256:${"g".repeat(64)}`,
  "constructor:abc",
  "toString:abc",
]) {
  test(`${JSON.stringify(bad.slice(0, 40))} is no digest`, () => {
    assert.throws(() => parseDigest(bad), InvalidDigest);
    assert.equal(isDigest(bad), false);
  });
}

test("chain ids follow the image specification", () => {
  const [a, b, c] = ["a", "b", "c"].map((text) => digestOf(Buffer.from(text))) as [string, string, string];
  const ab = digestOf(Buffer.from(`${a} ${b}`));
  assert.deepEqual(chainIds([a, b, c]), [a, ab, digestOf(Buffer.from(`${ab} ${c}`))]);
  assert.deepEqual(chainIds([]), []);
  assert.throws(() => chainIds(["nonsense"]), InvalidDigest);
});
