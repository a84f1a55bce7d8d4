/** What tests of the image store have in common: an image of two layers, a registry, a store. */
import assert from "node:assert/strict";
import type { TestContext } from "node:test";
import { ImageError, type ImageErrorCode } from "../../src/errors.ts";
import { build, type BuildOptions, FakeRegistry } from "./registry.ts";
import { bosunRig, plainRig, type Rig, whyNoBosun } from "./store.ts";
import { archive, type Member } from "./tar-writer.ts";

export const skip =
  process.getuid?.() === 0 ? {} : { skip: "needs root: whiteouts are devices, and layers have owners" };

/** Bosun where it is built, as the daemon has it; node:fs otherwise. */
export async function rigFor(t: TestContext): Promise<Rig> {
  return whyNoBosun() === undefined ? await bosunRig(t) : plainRig(t);
}

export async function registryFor(t: TestContext): Promise<FakeRegistry> {
  const registry = await FakeRegistry.start();
  t.after(() => registry.close());
  return registry;
}

export function isError(code: ImageErrorCode, message = /./): (error: unknown) => boolean {
  return (error) => {
    assert.ok(error instanceof ImageError, String((error as Error).stack));
    assert.equal(error.code, code, error.message);
    assert.match(error.message, message);
    return true;
  };
}

export const base = archive(
  { name: "etc/", type: "5", mode: 0o755 },
  { name: "etc/passwd", data: "root:x:0:0:root:/root:/bin/sh\n" },
  { name: "etc/group", data: "root:x:0:\n" },
  { name: "tmp/", type: "5", mode: 0o1777, mtime: 1_600_000_000 },
  { name: "gone", data: "1" },
);
export const layer = (...members: Member[]): Buffer => archive(...members);
export const app = (name: string, options?: BuildOptions): ReturnType<typeof build> =>
  build([base, layer({ name: "tmp/app", data: name }, { name: ".wh.gone" })], options);
