/**
 * berth-vm build-image: a kernel, an initramfs, and the same as root file systems, in a directory; each under its final name only when it
 * is whole.
 */
import { createHash, randomBytes } from "node:crypto";
import { copyFile, mkdir, open, readFile, rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { constants, gzip, zstdCompress } from "node:zlib";
import { readAgent } from "./agent.ts";
import { cpioArchive } from "./cpio.ts";
import { guestEntries } from "./initramfs.ts";
import { findKernel, type KernelSearch } from "./kernel.ts";
import { FOR_ROOT, FOR_VERITY, pickModules } from "./modules.ts";
import { mkfs, writeErofs, writeExt4 } from "./root.ts";
import { shellEntries } from "./shell.ts";

export type Compression = "gzip" | "zstd" | "none";

export interface BuildOptions extends KernelSearch {
  /** Where kernel, initrd and image.json are put; made when it is not there. */
  readonly output: string;
  /** The binary that becomes the guest's /init. */
  readonly bosun: string;
  /** Kata's agent, to be PID 1 in its place; statically linked. */
  readonly agent?: string | undefined;
  readonly compression?: Compression;
  /** A static busybox for the debug console; true: one of the usual places. */
  readonly debugConsole?: string | boolean;
}

/** image.json. */
export interface ImageDescription {
  readonly kernelRelease: string;
  readonly kernel: string;
  readonly initrd: string;
  /** Root file systems with the same in them, by type, for `image =`; each has its initramfs beside it (loaderOf). */
  readonly images: Readonly<Partial<Record<"erofs" | "ext4", string>>>;
  /** By the names of these: what kernel_verity_params has to be for one. */
  readonly verity: Readonly<Record<string, string>>;
  /** Kata's agent is the guest's PID 1, and bosun carries its socket. Undefined: bosun is. */
  readonly agent?: "kata";
  /** SHA-256 of the guest's /init: an image of another berth is made again. */
  readonly bosun: string;
  /** Modules in loading order. */
  readonly modules: readonly string[];
  /** Of those that are useful, what this kernel has not. */
  readonly absent: readonly string[];
  /** Bytes, unpacked. */
  readonly initrdSize: number;
  /** Whether it has a shell for the debug console. */
  readonly debugConsole: boolean;
}

/** Default output of berth-vm build-image, and where guests are looked for. */
export const DEFAULT_IMAGE_DIRECTORY = "/var/lib/berth/vm/image";

/**
 * Beside an image: an initramfs that finds and mounts it, for a kernel with the drivers of images as modules. A kernel that has them built
 * in, as Kata's, needs none, and an image of Kata's has none.
 */
export const loaderOf = (image: string): string => `${image}.initrd`;

export async function buildImage(options: BuildOptions): Promise<ImageDescription> {
  const kernel = await findKernel(options);
  const [bosun, { modules, absent }, forRoot, forVerity] = await Promise.all([
    readFile(options.bosun),
    pickModules(kernel.modules),
    pickModules(kernel.modules, [], FOR_ROOT),
    pickModules(kernel.modules, [], FOR_VERITY),
  ]);
  const agent = options.agent === undefined ? undefined : await readAgent(options.agent);
  const { release } = kernel;
  const { debugConsole = false } = options;
  const shell = debugConsole === false ? [] : await shellEntries(debugConsole === true ? undefined : debugConsole);
  const tree = { bosun, modules, release, more: shell, agent };
  const archive = cpioArchive(guestEntries({ ...tree, init: "init" }));
  const root = guestEntries({ ...tree, init: "sbin/init" });
  const ext4 = await mkfs();
  const description: ImageDescription = {
    kernelRelease: release,
    kernel: "vmlinuz",
    initrd: "initrd",
    images: { erofs: "root.erofs", ...(ext4 !== undefined && { ext4: "root.ext4" }) },
    verity: {},
    ...(agent && { agent: "kata" as const }),
    bosun: createHash("sha256").update(bosun).digest("hex"),
    modules: modules.map(({ name }) => name),
    absent,
    initrdSize: archive.length,
    debugConsole: shell.length > 0,
  };
  await mkdir(options.output, { recursive: true, mode: 0o755 });
  const kind = options.compression ?? "zstd";
  const packed = await compressed(archive, kind);
  const loader = await compressed(
    cpioArchive(guestEntries({ bosun, modules: forRoot.modules, verity: forVerity.modules, release, init: "init" })),
    kind,
  );
  const put = (name: string, write: (path: string) => Promise<void>): Promise<void> =>
    replace(join(options.output, name), write);
  await put("vmlinuz", (path) => copyFile(kernel.path, path));
  await put("initrd", (path) => writeFile(path, packed));
  const verity: Record<string, string> = {};
  for (const [type, name] of Object.entries(description.images)) {
    await put(name, async (path) => {
      verity[name] = await (type === "erofs" ? writeErofs(path, root) : writeExt4(path, root, ext4 ?? ""));
    });
    await put(loaderOf(name), (path) => writeFile(path, loader));
  }
  const whole = { ...description, verity };
  await put("image.json", (path) => writeFile(path, `${JSON.stringify(whole, undefined, 2)}\n`));
  return whole;
}

/** Undefined: there is none. */
export async function readImage(directory: string): Promise<ImageDescription | undefined> {
  try {
    return JSON.parse(await readFile(join(directory, "image.json"), "utf8")) as ImageDescription;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
}

/** The kernel's zstd reads windows of at most 8 MiB here (lib/decompress_unzstd.c). */
const ZSTD_WINDOW_LOG = 23;

async function compressed(archive: Buffer, compression: Compression): Promise<Uint8Array> {
  if (compression === "none") return archive;
  if (compression === "gzip") return await promisify(gzip)(archive, { level: 6 });
  const params = { [constants.ZSTD_c_compressionLevel]: 9, [constants.ZSTD_c_windowLog]: ZSTD_WINDOW_LOG };
  return await promisify(zstdCompress)(archive, { params });
}

/** Machines that run keep the old file open. */
async function replace(path: string, write: (path: string) => Promise<void>): Promise<void> {
  const temporary = `${path}.${randomBytes(4).toString("hex")}.new`;
  try {
    await write(temporary);
    await using file = await open(temporary, "r");
    await file.sync();
    await rename(temporary, path);
  } finally {
    await rm(temporary, { force: true });
  }
}
