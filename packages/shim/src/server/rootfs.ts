/** A container's root file system from what containerd names: mounted for the container alone where that can be, else at the bundle's rootfs. */
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { type Hand, MS, parseMountOptions, type Order } from "@berth/kernel";
import type { Rootfs } from "@berth/runtime";
import type { types } from "@berth/spec/shim";

const MNT_DETACH = 2n;
/** What an overlay of a container's own is made of; any other option is mount(2)'s. */
const OVERLAY = /^(lowerdir|upperdir|workdir)=|^(volatile|rw|index=off)$/;

/** `fallback`: where config.json says that it is. */
export async function rootfsOf(
  hand: Hand,
  bundle: string,
  fallback: string,
  mounts: readonly types.Mount[],
): Promise<Rootfs> {
  const [only] = mounts;
  if (only === undefined) return { kind: "path", path: fallback };
  if (mounts.length === 1 && only.target === "") {
    const own = overlayOf(only) ?? bindOf(only);
    if (own) return own;
  }
  const at = join(bundle, "rootfs");
  await mkdir(at, { recursive: true, mode: 0o711 });
  await hand.run({ orders: mounts.map((mount) => mountOrder(mount, at)) });
  return { kind: "path", path: at };
}

/** As far as it was mounted there; idempotent. */
export const unmountRootfs = async (hand: Pick<Hand, "run">, bundle: string): Promise<void> =>
  void (await hand.run({
    orders: [{ order: "unmount", args: { path: join(bundle, "rootfs"), flags: MNT_DETACH } }],
  }));

function overlayOf({ type, options }: types.Mount): Rootfs | undefined {
  if (type !== "overlay" || !options.every((option) => OVERLAY.test(option))) return undefined;
  const value = (key: string): string | undefined =>
    options.find((option) => option.startsWith(`${key}=`))?.slice(key.length + 1);
  const lowers = value("lowerdir")?.split(":") ?? [];
  // A backslash escapes a colon: left to the kernel.
  if (lowers.length === 0 || lowers.some((path) => path.endsWith("\\"))) return undefined;
  const [upper, work] = [value("upperdir"), value("workdir")];
  return {
    kind: "overlay",
    lowers,
    ...(upper !== undefined && { upper, work }),
    volatile: options.includes("volatile"),
  };
}

function bindOf({ type, source, options }: types.Mount): Rootfs | undefined {
  if (type !== "bind" || options.some((option) => !["bind", "rbind", "rw"].includes(option))) return undefined;
  return { kind: "path", path: source };
}

function mountOrder({ type, source, target, options }: types.Mount, root: string): Order {
  const { set, bind, data } = parseMountOptions(options);
  // The attributes of both interfaces have the same bits as far as the first four.
  const flags = (set & 0xfn) | (bind === "none" ? 0n : MS.BIND) | (bind === "rbind" ? MS.REC : 0n);
  return {
    order: "mount",
    args: { source, target: join(root, target), fstype: type, flags, data: data.join(",") },
    because: "rootfs",
  };
}
