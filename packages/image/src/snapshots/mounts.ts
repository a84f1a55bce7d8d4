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
  readonly #mounted = new Set<string>();
  /** Mounting and unmounting take turns. */
  #turn: Promise<unknown> = Promise.resolve();

  private constructor(hand: Hand, root: string, method: MountMethod) {
    this.#hand = hand;
    this.#root = root;
    this.#method = method;
  }

  /** `root`: the snapshots' directory. What an earlier process mounted is taken over. */
  static async open(hand: Hand, root: string, method: MountMethod): Promise<LayerMounts> {
    const mounts = new LayerMounts(hand, root, method);
    for (const home of await mounts.#found()) mounts.#mounted.add(home);
    return mounts;
  }

  /** Mounts what is not mounted of these. The caller has recorded that they are used. Rejects with ImageError. */
  async ensure(homes: readonly string[]): Promise<void> {
    await this.#inTurn(async () => {
      const missing = homes.filter((home) => !this.#mounted.has(home));
      if (missing.length === 0) return;
      await this.#mount(missing);
      for (const home of missing) this.#mounted.add(home);
    });
  }

  /** Unmounts what is mounted and not `used`, which is asked when it is this call's turn. */
  async dropUnused(used: () => ReadonlySet<string>): Promise<void> {
    if (this.#mounted.size === 0) return;
    await this.#inTurn(async () => {
      const keep = used();
      const unused = [...this.#mounted].filter((home) => !keep.has(home));
      if (unused.length === 0) return;
      await unmount(this.#hand, unused.map(fsOf));
      for (const home of unused) this.#mounted.delete(home);
    });
  }

  /** The image at `home` is another now: it is mounted again by whoever needs it next. */
  async forget(home: string): Promise<void> {
    await this.dropUnused(() => new Set([...this.#mounted].filter((each) => each !== home)));
  }

  async #inTurn(work: () => Promise<void>): Promise<void> {
    const turn = this.#turn.then(work);
    this.#turn = turn.catch(() => undefined);
    await turn;
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
