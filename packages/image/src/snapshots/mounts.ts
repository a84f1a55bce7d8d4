/**
 * EROFS images where overlayfs can take them: each mounted once, read-only, at snapshots/<id>/fs, for all containers that
 * use it. One mount of each, not one per container, as two mounts of the same image would cache its files twice.
 */
import { mkdir, readFile } from "node:fs/promises";
import { type Hand, MNT_DETACH, MOUNT_ATTR, type Order, parseMountInfo } from "@berth/kernel";
import { toImageError } from "../errors.ts";
import { fsOf, imageOf, type LayerRef } from "./layer-files.ts";
import { checkSeals, type Seal } from "./seal.ts";

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

  /** Mounts what is not mounted of these. The caller has recorded that they are used. Rejects with ImageError, DigestMismatch where an image is not what was sealed. */
  async ensure(layers: readonly Pick<LayerRef, "home" | "seal">[]): Promise<void> {
    await this.#inTurn(async () => {
      const missing = layers.filter(({ home }) => !this.#mounted.has(home));
      if (missing.length === 0) return;
      await checkSeals(
        this.#hand,
        missing.flatMap(({ home, seal }) => (seal === undefined ? [] : [{ path: imageOf(home), seal }])),
      );
      await this.#mount(missing);
      for (const { home } of missing) this.#mounted.add(home);
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

  /** Where something is mounted below the snapshots' directory that is not `used`, or once more on what is. */
  async stale(used: () => ReadonlySet<string>): Promise<string[]> {
    let found: string[] = [];
    await this.#inTurn(async () => {
      const needed = new Set([...used()].filter((home) => this.#mounted.has(home)).map(fsOf));
      found = (await this.#below()).filter(({ target }) => !needed.delete(target)).map(({ target }) => target);
    });
    return found;
  }

  /** Takes away what `stale` named: the topmost mount there. */
  async drop(target: string, used: () => ReadonlySet<string>): Promise<void> {
    if (!(await this.stale(used)).includes(target)) return;
    await this.#inTurn(async () => {
      await unmount(this.#hand, [target]);
      for (const home of this.#mounted) if (fsOf(home) === target && !used().has(home)) this.#mounted.delete(home);
    });
  }

  async #inTurn(work: () => Promise<void>): Promise<void> {
    const turn = this.#turn.then(work);
    this.#turn = turn.catch(() => undefined);
    await turn;
  }

  async #mount(layers: readonly Pick<LayerRef, "home" | "seal">[]): Promise<void> {
    try {
      for (const { home } of layers) await mkdir(fsOf(home), { recursive: true, mode: 0o755 });
      await this.#hand.run({ orders: layers.flatMap(({ home, seal }) => ordersFor(home, this.#method, seal)) });
    } catch (error) {
      await unmount(
        this.#hand,
        layers.map(({ home }) => fsOf(home)),
      );
      throw toImageError(error, "mount layers");
    }
  }

  async #found(): Promise<string[]> {
    return (await this.#below())
      .filter(({ target, fstype }) => fstype === "erofs" && target.endsWith("/fs"))
      .map(({ target }) => target.slice(0, -"/fs".length));
  }

  async #below(): Promise<{ target: string; fstype: string }[]> {
    const mounts = parseMountInfo(await readFile("/proc/self/mountinfo", "utf8"));
    return mounts.filter(({ target }) => target.startsWith(`${this.#root}/`));
  }
}

function ordersFor(home: string, method: MountMethod, seal: Seal | undefined): Order[] {
  const [image, target] = [imageOf(home), fsOf(home)];
  if (seal?.kind === "dmverity")
    return [{ order: "mount_image", args: { image, target, root: seal.digest, blocks: BigInt(seal.blocks) } }];
  if (method === "loop") return [{ order: "mount_image", args: { image, target, root: "", blocks: 0n } }];
  return [
    {
      order: "fs_mount",
      args: {
        slot: 0,
        fstype: "erofs",
        source: image,
        options: [],
        attrs: MOUNT_ATTR.RDONLY,
        fdKeys: [],
        fdSlots: [],
      },
    },
    { order: "attach_host", args: { slot: 0, target } },
    { order: "close", args: { slot: 0 } },
  ];
}

/** At snapshots/<id>/fs. Rejects as the hand does. */
export async function mountImage(hand: Hand, home: string, method: MountMethod, seal?: Seal): Promise<void> {
  await hand.run({ orders: ordersFor(home, method, seal) });
}

export async function unmount(hand: Hand, targets: readonly string[]): Promise<void> {
  await hand.run({
    orders: targets.map((path): Order => ({ order: "unmount", args: { path, flags: MNT_DETACH } })),
  });
}
