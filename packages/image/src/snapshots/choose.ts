/** Which snapshotter a state directory gets: what works there, found out by doing it. */
import { mkdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { type Hand, HandLost, type Order } from "@berth/kernel";
import { ErofsTree } from "../erofs/writer.ts";
import { ImageError } from "../errors.ts";
import { fsOf, imageOf } from "./layer-files.ts";
import { mountByFile, mountByLoop, type MountMethod, unmount } from "./mounts.ts";

export const SNAPSHOTTERS = ["erofs", "overlayfs", "native"] as const;
export type SnapshotterName = (typeof SNAPSHOTTERS)[number];

export type Choice =
  | { readonly name: "erofs"; readonly mount: MountMethod }
  | { readonly name: "overlayfs" | "native"; readonly mount?: undefined };

/**
 * `wanted` undefined: the first that works. Throws Unsupported with the reason where the one that is wanted does not.
 * "file" and "loop" are erofs with that way of mounting.
 */
export async function chooseSnapshotter(
  root: string,
  hand: Hand,
  wanted: SnapshotterName | MountMethod | undefined,
): Promise<Choice> {
  if (wanted === "native") return { name: "native" };
  const overlay = await whyNot(() => tryOverlay(root, hand));
  if (overlay !== undefined) {
    if (wanted === undefined) return { name: "native" };
    throw new ImageError("Unsupported", `the ${wanted} snapshotter does not work on ${root}: ${overlay}`);
  }
  if (wanted === "overlayfs") return { name: "overlayfs" };
  const byFile = wanted === "loop" ? "a loop device is wanted" : await whyNot(() => tryImage(root, hand, "file"));
  if (byFile === undefined) return { name: "erofs", mount: "file" };
  const byLoop = wanted === "file" ? "no loop device is wanted" : await whyNot(() => tryImage(root, hand, "loop"));
  if (byLoop === undefined) return { name: "erofs", mount: "loop" };
  if (wanted === undefined) return { name: "overlayfs" };
  throw new ImageError("Unsupported", `the erofs snapshotter does not work on ${root}: ${byFile}; ${byLoop}`);
}

async function whyNot(attempt: () => Promise<void>): Promise<string | undefined> {
  try {
    await attempt();
    return undefined;
  } catch (error) {
    if (error instanceof HandLost) throw error;
    return (error as Error).message;
  }
}

/** As a container's: upper and work directory are what not every file system can be. */
async function tryOverlay(root: string, hand: Hand): Promise<void> {
  await withScratch(root, "overlay", async (home) => {
    const [lower, upper, work] = ["lower", "upper", "work"].map((name) => join(home, name)) as [string, string, string];
    for (const directory of [lower, upper, work]) await mkdir(directory);
    const data = `lowerdir=${escape(lower)},upperdir=${escape(upper)},workdir=${escape(work)}`;
    const target = fsOf(home);
    await mkdir(target);
    const orders: Order[] = [
      { order: "mount", args: { source: "overlay", target, fstype: "overlay", flags: 0n, data } },
    ];
    await hand.run({ orders });
    await unmount(hand, [target]);
  });
}

/** Colons part layers and commas options (overlayfs.rst). */
const escape = (path: string): string => path.replaceAll(/[\\:,]/g, (character) => `\\${character}`);

async function tryImage(root: string, hand: Hand, method: MountMethod): Promise<void> {
  await withScratch(root, method, async (home) => {
    const tree = await ErofsTree.create(imageOf(home));
    await tree.end(false);
    await mkdir(fsOf(home));
    if (method === "file") await mountByFile(hand, home);
    else await mountByLoop(hand, imageOf(home), fsOf(home));
    await unmount(hand, [fsOf(home)]);
  });
}

async function withScratch(root: string, name: string, work: (home: string) => Promise<void>): Promise<void> {
  const home = join(root, `.probe-${name}`);
  await rm(home, { recursive: true, force: true });
  await mkdir(home, { recursive: true, mode: 0o700 });
  try {
    await work(home);
  } finally {
    await rm(home, { recursive: true, force: true });
  }
}
