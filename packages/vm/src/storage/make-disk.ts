/** Sparse disks with a file system, for what a guest writes. */
import { truncate, writeFile } from "node:fs/promises";
import type { Hand } from "@berth/kernel";
import { VmError } from "../errors.ts";

/** Bytes that the guest sees; on the host it takes what is written. Limits of the directory that it is in count as ever. */
const SIZE = 16 * 2 ** 30;
const MKFS = "mkfs.ext4";
const MKFS_MS = 60_000;

/** Without a journal, as it does not outlive its machine. Rejects with VmError Missing. */
export async function makeDisk(hand: Hand, path: string): Promise<void> {
  await writeFile(path, "", { mode: 0o600 });
  await truncate(path, SIZE);
  const argv = [MKFS, "-q", "-F", "-O", "^has_journal", "-m", "0"];
  argv.push("-E", "lazy_itable_init=1,nodiscard,root_owner=0:0", path);
  const env = { PATH: "/usr/sbin:/usr/bin:/sbin:/bin" };
  const { status, stderr } = await hand.spawn({ argv, env }, { timeoutMs: MKFS_MS });
  if (status !== 0)
    throw new VmError(
      "Missing",
      `${MKFS} ended with status ${status}: ${Buffer.from(stderr).toString().trim()}; disks for machines take it (Debian: apt-get install e2fsprogs)`,
    );
}
