/** Which of a kernel's modules a guest needs, in the order in which they can be loaded (modules.dep(5)). */
import { readFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { gunzipSync, zstdDecompressSync } from "node:zlib";
import { VmError } from "../errors.ts";

/**
 * By name. What is missing of `needed` is an error, for no guest comes up without; what is missing of `useful` is built in, or a
 * device or file system that this kernel has not.
 */
export const NEEDED = ["virtio_pci", "virtio_console", "virtio_net", "virtio_blk", "virtiofs", "overlay"] as const;
export const USEFUL = [
  // libcrc32c does not load without, and says so in modules.softdep alone.
  "crc32c_generic",
  "virtio_mmio",
  "virtio-rng",
  "virtio_scsi",
  "sd_mod",
  "virtio_balloon",
  "virtio_mem",
  "erofs",
  "nfit",
  "nd_pmem",
  "virtio_pmem",
  "vmw_vsock_virtio_transport",
  "9p",
  "9pnet_virtio",
  "ipv6",
  // What containers with CAP_NET_ADMIN make, and nobody would load when they do.
  "bridge",
  "veth",
  "dummy",
  "button",
] as const;

/** What stands between a kernel and a root file system in an image: of these, those that it has as modules. */
export const FOR_ROOT = [
  "crc32c_generic",
  "virtio_pci",
  "virtio_mmio",
  "virtio_blk",
  "nfit",
  "nd_pmem",
  "virtio_pmem",
  "erofs",
  "ext4",
  "xfs",
] as const;

/** For a root that dm-verity looks after (kernel_verity_params). */
export const FOR_VERITY = ["dm_verity"] as const;

export interface GuestModule {
  readonly name: string;
  /** Below the modules' directory, without the suffix of a compression. */
  readonly path: string;
  readonly data: Uint8Array;
}

export interface PickedModules {
  /** In loading order. */
  readonly modules: readonly GuestModule[];
  /** Of the useful ones: what this kernel neither has as a module nor says that it has built in. */
  readonly absent: readonly string[];
}

interface Dependencies {
  /** By name: its file and those it needs, nearest first. */
  readonly files: ReadonlyMap<string, { readonly path: string; readonly needs: readonly string[] }>;
  readonly builtin: ReadonlySet<string>;
}

/** `directory`: as /lib/modules/VERSION. Throws VmError Missing. */
export async function pickModules(
  directory: string,
  needed: readonly string[] = NEEDED,
  useful: readonly string[] = USEFUL,
): Promise<PickedModules> {
  const dependencies = await readDependencies(directory);
  const order: string[] = [];
  const absent: string[] = [];
  for (const name of needed)
    if (!add(dependencies, name, order))
      throw new VmError(
        "Missing",
        `${directory}: no module ${name}, and modules.builtin does not name it; a guest needs it`,
      );
  for (const name of useful) if (!add(dependencies, name, order)) absent.push(name);
  const modules = await Promise.all(order.map((path) => readModule(directory, path)));
  return { modules, absent };
}

/** False where there is no such module; one that is built in needs nothing. */
function add({ files, builtin }: Dependencies, name: string, order: string[]): boolean {
  const key = moduleKey(name);
  const found = files.get(key);
  if (!found) return builtin.has(key);
  // What a module needs is listed from the nearest to the farthest.
  for (const path of [...found.needs.toReversed(), found.path]) if (!order.includes(path)) order.push(path);
  return true;
}

async function readDependencies(directory: string): Promise<Dependencies> {
  const files = new Map<string, { path: string; needs: string[] }>();
  for (const line of (await textOf(join(directory, "modules.dep"))).split("\n")) {
    const [path = "", needs = ""] = line.split(":");
    if (path !== "") files.set(moduleKey(path), { path, needs: needs.split(" ").filter((need) => need !== "") });
  }
  const builtin = (await textOf(join(directory, "modules.builtin"))).split("\n").filter((line) => line !== "");
  return { files, builtin: new Set(builtin.map(moduleKey)) };
}

async function textOf(path: string): Promise<string> {
  try {
    return await readFile(path, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
    throw new VmError(
      "Missing",
      `${path}: no such file; give the directory of the kernel's modules (--modules), as /lib/modules/VERSION, after depmod`,
    );
  }
}

/** The kernel takes - and _ for one another. */
const moduleKey = (path: string): string =>
  basename(path)
    .replace(/\.ko(\.(gz|xz|zst))?$/, "")
    .replaceAll("-", "_");

async function readModule(directory: string, path: string): Promise<GuestModule> {
  const data = await readFile(join(directory, path));
  return {
    name: moduleKey(path),
    path: path.replace(/\.(gz|xz|zst)$/, ""),
    data: decompressed(data, join(directory, path)),
  };
}

/** The guest loads plain ones, by finit_module(2). */
function decompressed(data: Buffer, path: string): Uint8Array {
  if (path.endsWith(".ko")) return data;
  if (path.endsWith(".gz")) return gunzipSync(data);
  if (path.endsWith(".zst")) return zstdDecompressSync(data);
  throw new VmError(
    "Unsupported",
    `${path}: is compressed by xz, which cannot be read here; decompress the modules' directory (unxz) and run depmod`,
  );
}
