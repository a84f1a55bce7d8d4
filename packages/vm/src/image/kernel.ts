/** Which kernel guests boot: a named one, or the newest in /boot that is made for virtual machines. */
import { existsSync } from "node:fs";
import { open, readdir } from "node:fs/promises";
import { basename, join } from "node:path";
import { VmError } from "../errors.ts";

export interface GuestKernel {
  /** vmlinuz. */
  readonly path: string;
  /** As uname -r says in the guest. */
  readonly release: string;
  /** /lib/modules/RELEASE. */
  readonly modules: string;
}

export interface KernelSearch {
  readonly kernel?: string | undefined;
  readonly modules?: string | undefined;
  /** Default /boot and /lib/modules. */
  readonly boot?: string;
  readonly lib?: string;
}

const HELP =
  "install one made for virtual machines (Debian: apt-get install linux-image-cloud-amd64), or name one by --kernel and --modules";

/** Throws VmError Missing, saying what to do. */
export async function findKernel({
  kernel,
  modules,
  boot = "/boot",
  lib = "/lib/modules",
}: KernelSearch): Promise<GuestKernel> {
  const path = kernel ?? (await newestIn(boot));
  if (path === undefined) throw new VmError("Missing", `${boot}: no vmlinuz-*; ${HELP}`);
  const release = await releaseOf(path);
  const directory = modules ?? join(lib, release);
  if (!existsSync(directory)) throw new VmError("Missing", `${directory}: no modules of kernel ${path}; ${HELP}`);
  return { path, release, modules: directory };
}

/** One for clouds before any other: it is half the size, and has the devices built for guests. */
async function newestIn(boot: string): Promise<string | undefined> {
  const names = (await readdir(boot).catch(ignoreMissing)).filter((name) => name.startsWith("vmlinuz-"));
  const score = (name: string): number => (/-(cloud|kvm|virtual|aws|azure|gcp)/.test(name) ? 1 : 0);
  const [best] = names.sort((a, b) => score(b) - score(a) || b.localeCompare(a, "en", { numeric: true }));
  return best && join(boot, best);
}

function ignoreMissing(error: NodeJS.ErrnoException): string[] {
  if (error.code === "ENOENT") return [];
  throw error;
}

/**
 * The x86 boot protocol (Documentation/arch/x86/boot.rst): "HdrS" at 0x202, and at 0x20e where the version's text begins, less
 * 0x200. A kernel without that (an ELF file) is known by its name.
 */
async function releaseOf(path: string): Promise<string> {
  const file = await open(path, "r").catch((error: NodeJS.ErrnoException) => {
    throw new VmError("Missing", `${path}: ${error.code === "ENOENT" ? "no such kernel" : error.message}; ${HELP}`, {
      cause: error,
    });
  });
  try {
    const head = Buffer.alloc(0x8200);
    const { bytesRead } = await file.read(head, 0, head.length, 0);
    if (bytesRead > 0x210 && head.toString("latin1", 0x202, 0x206) === "HdrS") {
      const at = head.readUInt16LE(0x20e) + 0x200;
      const text = head.toString("latin1", at, Math.min(bytesRead, at + 256));
      const [release] = text.split(/[ \0]/);
      if (release) return release;
    }
    const named = /^vmlinu[xz]-(.+)$/.exec(basename(path))?.[1];
    if (named !== undefined) return named;
    throw new VmError(
      "Unsupported",
      `${path}: does not say its version; name its modules by --modules, and the file vmlinuz-VERSION`,
    );
  } finally {
    await file.close();
  }
}
