/** What doctor sees of the machine; tests give another one. */
import { access, readdir, readFile, statfs } from "node:fs/promises";
import { release } from "node:os";
import { delimiter, join } from "node:path";

export interface Machine {
  readonly kernel: string;
  readonly uid: number;
  /** undefined: there is no such file. */
  read(path: string): Promise<string | undefined>;
  /** Empty where there is no such directory. */
  list(path: string): Promise<readonly string[]>;
  /** Whether a program is on PATH or where administrators' programs are. */
  hasProgram(name: string): Promise<boolean>;
  /** Shares that are free, 0 to 1, of the file system that `path` will be on. */
  free(path: string): Promise<{ readonly bytes: number; readonly share: number; readonly inodes: number }>;
}

const SYSTEM_DIRS = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];
const ABSENT = new Set(["ENOENT", "ENOTDIR", "EACCES", "ESRCH", "EINVAL"]);

async function unlessAbsent<T, O>(work: Promise<T>, otherwise: O): Promise<T | O> {
  try {
    return await work;
  } catch (error) {
    if (ABSENT.has((error as NodeJS.ErrnoException).code ?? "")) return otherwise;
    throw error;
  }
}

export const thisMachine: Machine = {
  kernel: release(),
  uid: process.getuid?.() ?? 0,
  read: (path) => unlessAbsent(readFile(path, "utf8"), undefined),
  list: (path) => unlessAbsent(readdir(path), []),
  async hasProgram(name) {
    const dirs = [...(process.env["PATH"] ?? "").split(delimiter), ...SYSTEM_DIRS];
    for (const dir of dirs.filter((each) => each !== ""))
      if (
        await unlessAbsent(
          access(join(dir, name)).then(() => true),
          false,
        )
      )
        return true;
    return false;
  },
  async free(path) {
    const stats = await unlessAbsent(statfs(path), undefined);
    if (!stats) return await this.free(join(path, ".."));
    const { bavail, bsize, blocks, ffree, files } = stats;
    // btrfs and others make inodes as they need them, and say 0.
    return { bytes: bavail * bsize, share: bavail / blocks, inodes: files === 0 ? 1 : ffree / files };
  },
};
