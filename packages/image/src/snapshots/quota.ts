/** Limits of writable layers: project quotas (ext4 and XFS, mounted with prjquota). */
import { mkdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { type Hand, HandLost, type Order } from "@berth/kernel";
import { ImageError, toImageError } from "../errors.ts";

/**
 * Projects are taken from here on, by the snapshot's number: beyond those that kubelet gives to emptyDir volumes (from 1,048,577)
 * and those that administrators number by hand. One that is in use all the same is passed over.
 */
const FIRST_PROJECT = 0x40000000;
const PROJECTS = 0x40000000;
/** Of orders that a file system without project quotas answers. */
const LACKING = new Set(["ESRCH", "ENOSYS", "ENOTTY", "EOPNOTSUPP", "ENOTSUP"]);

export class Limits {
  readonly #hand: Hand;
  /** One after the other: two that looked for a free project at the same time might find the same. */
  #turn: Promise<void> = Promise.resolve();

  constructor(hand: Hand) {
    this.#hand = hand;
  }

  /** Limits the empty directory `home` of snapshot `id`, and all that is made in it, to `bytes`. Rejects with ImageError; Unsupported: the file system cannot. */
  async set(home: string, id: number, bytes: number): Promise<void> {
    const turn = this.#turn.then(async () => await limit(this.#hand, home, id, bytes));
    this.#turn = turn.catch(() => undefined);
    await turn;
  }
}

async function limit(hand: Hand, home: string, id: number, bytes: number): Promise<void> {
  const project = FIRST_PROJECT + (id % PROJECTS);
  try {
    await hand.run({ orders: [{ order: "project_quota", args: { path: home, project, bytes: BigInt(bytes) } }] });
  } catch (error) {
    const { code } = error as { code?: string };
    if (error instanceof HandLost || !LACKING.has(code ?? "")) throw toImageError(error, `limit ${home}`);
    throw new ImageError(
      "Unsupported",
      `writable layers cannot be limited: ${(error as Error).message}; it takes Linux 5.14 and ext4 with the feature project, or XFS, mounted with prjquota`,
      { cause: error },
    );
  }
}

/** Takes limits away and removes what they were for. */
export function removal(path: string): Order[] {
  return [
    { order: "drop_quota", args: { path } },
    { order: "remove_tree", args: { path } },
  ];
}

/** Whether limits work on `root`, found out by setting one. Rejects with ImageError Unsupported and the reason. */
export async function tryLimit(root: string, hand: Hand): Promise<void> {
  const home = join(root, ".probe-quota");
  await mkdir(home, { recursive: true, mode: 0o700 });
  try {
    await limit(hand, home, 0, 1 << 20);
  } finally {
    await hand.run({ orders: [{ order: "drop_quota", args: { path: home } }] });
    await rm(home, { recursive: true, force: true });
  }
}
