/** A container as a shim sees it: a directory with its configuration, its log, its FIFOs and where its shim is. */
import { mkdir, readFile, rm, writeFile } from "node:fs/promises";
import type { Bootstrap, ShimCall } from "@berth/shim";
import { oci } from "@berth/spec/oci";
import { type CriContext, sandboxDir } from "../../context.ts";
import { runtimeEnvironment } from "../oci-command.ts";

/** containerd's for the CRI: shims keep their state by it. */
export const NAMESPACE = "k8s.io";
const MNT_DETACH = 2n;

/** Where a container's shim is, and which program it is: what a restart needs. */
interface Found extends Bootstrap {
  readonly path: string;
}

export const bundleOf = (context: CriContext, sandboxId: string, id: string): string =>
  `${sandboxDir(context, sandboxId)}/bundles/${id}`;
/** Its ".ttrpc" is where shims' events go. */
export const addressOf = ({ paths }: Pick<CriContext, "paths">): string => `${paths.state}/shims.sock`;

/**
 * What a shim's program works in. It writes its log to what is called "log" there: under containerd a FIFO, which needs its reader at all
 * times; here a file, which outlives every daemon.
 */
export async function writeBundle(bundle: string, spec: oci.Spec): Promise<void> {
  await mkdir(`${bundle}/rootfs`, { recursive: true, mode: 0o711 });
  await mkdir(`${bundle}/io`, { recursive: true, mode: 0o700 });
  await writeFile(`${bundle}/config.json`, oci.compactSpec(spec));
  await writeFile(`${bundle}/log`, "");
}

export function callOf(context: CriContext, path: string, id: string, bundle: string): ShimCall {
  return { path, namespace: NAMESPACE, id, bundle, address: addressOf(context), env: runtimeEnvironment() };
}

const foundFile = (bundle: string): string => `${bundle}/berth-shim.json`;

export const rememberShim = (bundle: string, found: Found): Promise<void> =>
  writeFile(foundFile(bundle), JSON.stringify(found));

/** Undefined: its shim had not been started. */
export async function shimOf(bundle: string): Promise<Found | undefined> {
  try {
    return JSON.parse(await readFile(foundFile(bundle), "utf8")) as Found;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
}

/** A shim that has died has left its mount. */
export async function removeBundle(context: CriContext, bundle: string): Promise<void> {
  await context.hand.run({ orders: [{ order: "unmount", args: { path: `${bundle}/rootfs`, flags: MNT_DETACH } }] });
  await rm(bundle, { recursive: true, force: true });
}

/** The end of what the shim has written, for an error. */
export async function lastLog(bundle: string): Promise<string> {
  const text = await readFile(`${bundle}/log`, "utf8").catch(() => "");
  return text.trim().split("\n").at(-1) ?? "";
}
