/** File systems of a test's own, in a file by a loop device: with what the machine's may lack. */
import { execFileSync, spawnSync } from "node:child_process";
import { mkdirSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { TestContext } from "node:test";
import { missingPrograms } from "./scan.ts";
import { atEnd, scratch } from "./store.ts";

export interface FileSystem {
  /** Where it is mounted. */
  readonly root: string;
  /** The file that it is in. */
  readonly file: string;
  readonly unmount: () => void;
  readonly mount: () => void;
}

const KINDS = {
  ext4: {
    make: ["mkfs.ext4", "-q", "-O", "quota,project,verity", "-E", "quotatype=prjquota", "-b", "4096"],
    bytes: 64 << 20,
  },
  xfs: { make: ["mkfs.xfs", "-q"], bytes: 320 << 20 },
} as const;
export type FileSystemKind = keyof typeof KINDS;

/** Or why there is none: what is not installed, or what mount(8) says. */
export function fileSystem(t: TestContext, kind: FileSystemKind, options = "prjquota"): FileSystem | string {
  const { make, bytes } = KINDS[kind];
  const missing = missingPrograms(make[0], "mount");
  if (process.getuid?.() !== 0) return "needs root";
  if (missing !== undefined) return missing;
  const directory = scratch(t);
  const [file, root] = [join(directory, "disk"), join(directory, "mounted")];
  writeFileSync(file, "");
  truncateSync(file, bytes);
  execFileSync(make[0], [...make.slice(1), file], { stdio: "pipe" });
  mkdirSync(root);
  const argv = ["-t", kind, "-o", `loop,${options}`, file, root];
  const { status, stderr } = spawnSync("mount", argv, { encoding: "utf8" });
  if (status !== 0) return `${kind} with ${options}: ${stderr.trim()}`;
  const unmount = (): void => void execFileSync("umount", [root]);
  let mounted = true;
  atEnd(t, () => {
    if (mounted) execFileSync("umount", ["-l", root]);
  });
  return {
    root,
    file,
    unmount: () => {
      unmount();
      mounted = false;
    },
    mount: () => {
      execFileSync("mount", argv);
      mounted = true;
    },
  };
}
