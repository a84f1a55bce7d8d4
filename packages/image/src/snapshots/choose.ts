/** Which snapshotter a state directory gets: what works there, found out by doing it. */
import { mkdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { type Hand, HandLost, type Order } from "@berth/kernel";
import { ErofsTree } from "../erofs/writer.ts";
import { ImageError } from "../errors.ts";
import type { WorkerPool } from "../layers/pool.ts";
import { fsOf, imageOf } from "./layer-files.ts";
import { mountImage, type MountMethod, unmount } from "./mounts.ts";
import { seal, type Verity } from "./seal.ts";

export const SNAPSHOTTERS = ["erofs", "overlayfs", "native"] as const;
export type SnapshotterName = (typeof SNAPSHOTTERS)[number];

export type Choice =
  | { readonly name: "erofs"; readonly mount: MountMethod; readonly verity?: Verity | undefined }
  | { readonly name: "overlayfs" | "native"; readonly mount?: undefined; readonly verity?: undefined };

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

/**
 * As chooseSnapshotter, for layers that are to be sealed by `verity`. Throws Unsupported where it is not erofs that works, or the kernel or the
 * file system lacks what seals.
 */
export async function chooseSealed(
  root: string,
  hand: Hand,
  wanted: SnapshotterName | MountMethod | undefined,
  verity: Verity | undefined,
  pool: Pick<WorkerPool, "run">,
): Promise<Choice> {
  if (verity === undefined) return await chooseSnapshotter(root, hand, wanted);
  const choice = await chooseSnapshotter(root, hand, wanted ?? "erofs");
  const { option, lacking } = VERITY[verity];
  if (choice.name !== "erofs")
    throw new ImageError("Unsupported", `${option} is for the erofs snapshotter, and ${root} has ${choice.name}`);
  const why = await whyNot(() => trySeal(root, hand, choice.mount, verity, pool));
  if (why !== undefined) throw new ImageError("Unsupported", `${option} does not work on ${root}: ${why}; ${lacking}`);
  return { ...choice, verity };
}

const VERITY = {
  fsverity: {
    option: "enable_fsverity",
    lacking:
      "it takes a kernel with CONFIG_FS_VERITY, and ext4 or f2fs made with the feature verity (tune2fs -O verity), or btrfs",
  },
  dmverity: {
    option: "dmverity_mode",
    lacking: "it takes a kernel with dm-verity (modprobe dm-verity) and loop devices",
  },
} as const;

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
    await emptyImage(home);
    await mountImage(hand, home, method);
    await unmount(hand, [fsOf(home)]);
  });
}

async function trySeal(
  root: string,
  hand: Hand,
  method: MountMethod,
  verity: Verity,
  pool: Pick<WorkerPool, "run">,
): Promise<void> {
  await withScratch(root, verity, async (home) => {
    await emptyImage(home);
    await mountImage(hand, home, method, await seal(verity, imageOf(home), hand, pool));
    await unmount(hand, [fsOf(home)]);
  });
}

async function emptyImage(home: string): Promise<void> {
  const tree = await ErofsTree.create(imageOf(home));
  await tree.end(false);
  await mkdir(fsOf(home));
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
