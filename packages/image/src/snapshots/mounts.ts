/**
 * EROFS images where overlayfs can take them: each mounted once, read-only, at snapshots/<id>/fs, for all containers that
 * use it. One mount of each, not one per container, as two mounts of the same image would cache its files twice.
 */
import { mkdir, readFile } from "node:fs/promises";
import { type Hand, MNT_DETACH, MOUNT_ATTR, type Order, parseMountInfo } from "@berth/kernel";
import { ImageError, toImageError } from "../errors.ts";
import { fsOf, imageOf } from "./layer-files.ts";

/** By the file itself (Linux 6.12, if the file system that it is on allows), or by a loop device. */
export type MountMethod = "file" | "loop";

export class LayerMounts {
  readonly #hand: Hand;
  readonly #method: MountMethod;
  readonly #root: string;
  readonly #mounted = new Map<string, Promise<void>>();

  private constructor(hand: Hand, root: string, method: MountMethod) {
    this.#hand = hand;
    this.#root = root;
    this.#method = method;
  }

  /** `root`: the snapshots' directory. What an earlier process mounted is taken over. */
  static async open(hand: Hand, root: string, method: MountMethod): Promise<LayerMounts> {
    const mounts = new LayerMounts(hand, root, method);
    for (const home of await mounts.#found()) mounts.#mounted.set(home, Promise.resolve());
    return mounts;
  }

  /** Mounts what is not mounted of these. Rejects with ImageError. */
  async ensure(homes: readonly string[]): Promise<void> {
    const missing = homes.filter((home) => !this.#mounted.has(home));
    if (missing.length > 0) {
      const work = this.#mount(missing);
      work.catch(() => {
        for (const home of missing) this.#mounted.delete(home);
      });
      for (const home of missing) this.#mounted.set(home, work);
    }
    await Promise.all(homes.map((home) => this.#mounted.get(home)));
  }

  /** Containers that run keep what they use: theirs is a copy of the mount. */
  async drop(homes: readonly string[]): Promise<void> {
    const mounted = homes.filter((home) => this.#mounted.has(home));
    if (mounted.length === 0) return;
    await Promise.allSettled(mounted.map((home) => this.#mounted.get(home)));
    await unmount(this.#hand, mounted.map(fsOf));
    for (const home of mounted) this.#mounted.delete(home);
  }

  mounted(): string[] {
    return [...this.#mounted.keys()];
  }

  async #mount(homes: readonly string[]): Promise<void> {
    try {
      for (const home of homes) await mkdir(fsOf(home), { recursive: true, mode: 0o755 });
      if (this.#method === "file") await this.#hand.run({ orders: homes.flatMap(ordersFor) });
      else for (const home of homes) await mountByLoop(this.#hand, imageOf(home), fsOf(home));
    } catch (error) {
      await unmount(this.#hand, homes.map(fsOf));
      throw toImageError(error, "mount layers");
    }
  }

  async #found(): Promise<string[]> {
    const prefix = `${this.#root}/`;
    return parseMountInfo(await readFile("/proc/self/mountinfo", "utf8"))
      .filter(({ target, fstype }) => fstype === "erofs" && target.startsWith(prefix) && target.endsWith("/fs"))
      .map(({ target }) => target.slice(0, -"/fs".length));
  }
}

function ordersFor(home: string): Order[] {
  return [
    {
      order: "fs_mount",
      args: {
        slot: 0,
        fstype: "erofs",
        source: imageOf(home),
        options: [],
        attrs: MOUNT_ATTR.RDONLY,
        fdKeys: [],
        fdSlots: [],
      },
    },
    { order: "attach_host", args: { slot: 0, target: fsOf(home) } },
    { order: "close", args: { slot: 0 } },
  ];
}

/** util-linux's mount finds a free device and frees it with the mount. */
export async function mountByLoop(hand: Hand, image: string, target: string): Promise<void> {
  const { status, stderr } = await hand.spawn({
    argv: ["mount", "-t", "erofs", "-o", "loop,ro", image, target],
    env: { PATH: "/usr/sbin:/usr/bin:/sbin:/bin" },
  });
  if (status !== 0)
    throw new ImageError("Internal", `mount ${image} by a loop device: ${Buffer.from(stderr).toString().trim()}`);
}

export async function mountByFile(hand: Hand, home: string): Promise<void> {
  await hand.run({ orders: ordersFor(home) });
}

export async function unmount(hand: Hand, targets: readonly string[]): Promise<void> {
  await hand.run({
    orders: targets.map((path): Order => ({ order: "unmount", args: { path, flags: MNT_DETACH } })),
  });
}
