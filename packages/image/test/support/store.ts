/** Where a test keeps images, and with what hand: bosun's where it is built, a double on node:fs otherwise. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { TestContext } from "node:test";
import * as kernel from "@berth/kernel";
import { Images, type ImagesOptions } from "../../src/images.ts";
import type { Rootfs } from "../../src/types.ts";
import { plainHand } from "./trees.ts";

export const QUICK = { attempts: 3, firstDelayMs: 1, maxDelayMs: 5, maxRetryAfterMs: 1000 };
export const BOSUN = process.env["BERTH_BOSUN"] ?? new URL("../../../../.build/native/bosun", import.meta.url).pathname;
const DOUBLES = new URL("./trees.ts", import.meta.url).href;

export interface Rig {
  readonly root: string;
  readonly hand: kernel.Hand;
  readonly serveSocket: string;
  readonly treeModule: string | undefined;
}

const cleanups = new WeakMap<TestContext, (() => unknown)[]>();

/** As t.after, but in reverse order: what was made last goes first. */
export function atEnd(t: TestContext, work: () => unknown): void {
  let works = cleanups.get(t);
  if (works === undefined) {
    const all: (() => unknown)[] = [];
    works = all;
    cleanups.set(t, all);
    t.after(async () => {
      for (const each of all.toReversed()) await each();
    });
  }
  works.push(work);
}

export function scratch(t: TestContext, parent: string = tmpdir()): string {
  const directory = mkdtempSync(join(parent, "berth-image-"));
  atEnd(t, () => {
    // A store that was killed, or one with containers, leaves its layers mounted.
    const mounts = kernel.parseMountInfo(readFileSync("/proc/self/mountinfo", "utf8"));
    for (const { target } of mounts.filter((mount) => mount.target.startsWith(`${directory}/`)).reverse())
      execFileSync("umount", ["-l", target]);
    rmSync(directory, { recursive: true, force: true });
  });
  return directory;
}

export function overlayOf(rootfs: Rootfs): Extract<Rootfs, { kind: "overlay" }> {
  assert.ok(rootfs.kind === "overlay");
  return rootfs;
}

/** Why bosun cannot be used here; undefined: it can. */
export function whyNoBosun(): string | undefined {
  if (process.getuid?.() !== 0) return "needs root";
  return existsSync(BOSUN) ? undefined : "bosun is not built (packages/native/build)";
}

/** Layers are written with node:fs. Whiteouts and owners need root all the same. */
export function plainRig(t: TestContext): Rig {
  return { root: scratch(t), hand: plainHand(), serveSocket: "", treeModule: DOUBLES };
}

export async function bosunRig(t: TestContext): Promise<Rig> {
  const root = scratch(t);
  const hand = await kernel.startHand({ bosun: BOSUN, state: join(root, "state") });
  atEnd(t, () => hand.close());
  return { root: join(root, "images"), hand, serveSocket: join(root, "state", "serve.sock"), treeModule: undefined };
}

export function optionsFor({ root, hand, serveSocket, treeModule }: Rig): ImagesOptions {
  return { root, hand, serveSocket, ...(treeModule === undefined ? {} : { treeModule }), retry: QUICK };
}

export async function openImages(t: TestContext, rig: Rig, options: Partial<ImagesOptions> = {}): Promise<Images> {
  const images = await Images.open({ ...optionsFor(rig), ...options });
  atEnd(t, () => images.close());
  await images.recover();
  return images;
}

/** Everything below a root that is an image's or a container's, as paths: empty when nothing is left. */
export function leftovers(root: string): string[] {
  const found: string[] = [];
  for (const directory of ["content/blobs/sha256", "content/ingest", "snapshots", "trash"]) {
    for (const name of readdirSync(join(root, directory))) found.push(`${directory}/${name}`);
  }
  return found;
}
