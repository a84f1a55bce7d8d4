/** /proc/PID/mountinfo (proc_pid_mountinfo(5)). */
import { readFile } from "node:fs/promises";

export interface MountInfo {
  readonly id: number;
  readonly parent: number;
  /** "major:minor" of the file system. */
  readonly device: string;
  /** The directory of the file system that is the root of this mount. */
  readonly root: string;
  readonly target: string;
  /** Per-mount options. */
  readonly options: readonly string[];
  /** Propagation, as in "shared:5", "master:2". */
  readonly propagation: readonly string[];
  readonly fstype: string;
  readonly source: string;
  /** Per-superblock options. */
  readonly superOptions: readonly string[];
}

/** Throws Error on a line that is not one of mountinfo's. */
export function parseMountInfo(text: string): MountInfo[] {
  return text
    .split("\n")
    .filter((line) => line !== "")
    .map(parseLine);
}

/** The mounts of some file systems; of a table that may have thousands no other line is taken apart. */
export function mountsOf(text: string, ...fstypes: readonly string[]): MountInfo[] {
  const marks = fstypes.map((fstype) => ` - ${fstype} `);
  const lines = text.split("\n").filter((line) => marks.some((mark) => line.includes(mark)));
  return lines.map(parseLine).filter(({ fstype }) => fstypes.includes(fstype));
}

function parseLine(line: string): MountInfo {
  const [left, right] = splitOnce(line, " - ");
  const [id, parent, device, root, target, options, ...propagation] = left.split(" ");
  const [fstype, source, superOptions] = right.split(" ");
  if (
    id === undefined ||
    parent === undefined ||
    device === undefined ||
    root === undefined ||
    target === undefined ||
    options === undefined ||
    fstype === undefined
  ) {
    throw new Error(`mountinfo: unexpected line ${JSON.stringify(line)}`);
  }
  return {
    id: Number(id),
    parent: Number(parent),
    device,
    root: unescapeOctal(root),
    target: unescapeOctal(target),
    options: options.split(","),
    propagation: propagation.filter((field) => field !== ""),
    fstype,
    source: unescapeOctal(source ?? ""),
    superOptions: (superOptions ?? "").split(",").filter((option) => option !== ""),
  };
}

function splitOnce(text: string, separator: string): [string, string] {
  const at = text.indexOf(separator);
  return at < 0 ? [text, ""] : [text.slice(0, at), text.slice(at + separator.length)];
}

/** The kernel writes space, tab, newline and backslash as three octal digits. */
function unescapeOctal(text: string): string {
  return text.replaceAll(/\\([0-7]{3})/g, (_match, digits: string) => String.fromCharCode(Number.parseInt(digits, 8)));
}

/** Whether something is mounted at exactly this path (absolute, without symlinks) in this process's mount namespace. */
export async function isMountpoint(path: string): Promise<boolean> {
  return parseMountInfo(await readFile("/proc/self/mountinfo", "utf8")).some(({ target }) => target === path);
}
