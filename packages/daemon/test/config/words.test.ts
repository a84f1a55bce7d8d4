import assert from "node:assert/strict";
import { test } from "node:test";
import { nearest } from "@berth/spec/nearest";

test("the nearest word is one that a slip of the finger makes", () => {
  const known = ["sandbox_image", "enable_cdi", "enable_selinux"];
  assert.equal(nearest("sandbox_imgae", known), "sandbox_image");
  assert.equal(nearest("Enable_CDI", known), "enable_cdi");
  assert.equal(nearest("colour", known), undefined);
});
