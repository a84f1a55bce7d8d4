import assert from "node:assert/strict";
import { test } from "node:test";
import { parseDuration } from "../../src/config/duration.ts";
import { nearest } from "../../src/config/nearest.ts";

test("durations are Go's", () => {
  assert.equal(parseDuration("4h0m0s"), 4 * 3_600_000);
  assert.equal(parseDuration("1.5s"), 1500);
  assert.equal(parseDuration("-2m"), -120_000);
  assert.equal(parseDuration("0"), 0);
  assert.equal(parseDuration("250us"), 0.25);
  for (const text of ["", "10", "s", "1h 2m", "ten", "1d"]) assert.equal(parseDuration(text), undefined, text);
});

test("the nearest word is one that a slip of the finger makes", () => {
  const known = ["sandbox_image", "enable_cdi", "enable_selinux"];
  assert.equal(nearest("sandbox_imgae", known), "sandbox_image");
  assert.equal(nearest("Enable_CDI", known), "enable_cdi");
  assert.equal(nearest("colour", known), undefined);
});
