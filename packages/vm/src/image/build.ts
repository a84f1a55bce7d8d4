/** berth-vm build-image: a kernel and an initramfs in a directory, each under its final name only when it is whole. */
import { createHash, randomBytes } from "node:crypto";
import { copyFile, mkdir, open, readFile, rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { constants, gzip, zstdCompress } from "node:zlib";
import { cpioArchive } from "./cpio.ts";
import { initramfsEntries } from "./initramfs.ts";
import { findKernel, type KernelSearch } from "./kernel.ts";
import { pickModules } from "./modules.ts";

export type Compression = "gzip" | "zstd" | "none";

export interface BuildOptions extends KernelSearch {
  /** Where kernel, initrd and image.json are put; made when it is not there. */
  readonly output: string;
  /** The binary that becomes the guest's /init. */
  readonly bosun: string;
  readonly compression?: Compression;
}

/** image.json. */
export interface ImageDescription {
  readonly kernelRelease: string;
  readonly kernel: string;
  readonly initrd: string;
  /** SHA-256 of the guest's /init: an image of another berth is made again. */
  readonly bosun: string;
  /** Modules in loading order. */
  readonly modules: readonly string[];
  /** Of those that are useful, what this kernel has not. */
  readonly absent: readonly string[];
  /** Bytes, unpacked. */
  readonly initrdSize: number;
}

/** Default output of berth-vm build-image, and where guests are looked for. */
export const DEFAULT_IMAGE_DIRECTORY = "/var/lib/berth/vm/image";

export async function buildImage(options: BuildOptions): Promise<ImageDescription> {
  const kernel = await findKernel(options);
  const [bosun, { modules, absent }] = await Promise.all([readFile(options.bosun), pickModules(kernel.modules)]);
  const archive = cpioArchive(initramfsEntries({ bosun, modules, release: kernel.release }));
  const description: ImageDescription = {
    kernelRelease: kernel.release,
    kernel: "vmlinuz",
    initrd: "initrd",
    bosun: createHash("sha256").update(bosun).digest("hex"),
    modules: modules.map(({ name }) => name),
    absent,
    initrdSize: archive.length,
  };
  await mkdir(options.output, { recursive: true, mode: 0o755 });
  const packed = await compressed(archive, options.compression ?? "zstd");
  await replace(join(options.output, "vmlinuz"), (path) => copyFile(kernel.path, path));
  await replace(join(options.output, "initrd"), (path) => writeFile(path, packed));
  await replace(join(options.output, "image.json"), (path) =>
    writeFile(path, `${JSON.stringify(description, undefined, 2)}\n`),
  );
  return description;
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
