/** What processes and the kernel hold. */
import { readFileSync, readdirSync, readlinkSync, writeFileSync } from "node:fs";

/** PSS in bytes (proc(5), smaps_rollup); 0 for a process that is gone. */
export function pss(pid: number): number {
  try {
    return Number(/^Pss:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/smaps_rollup`, "utf8"))?.[1] ?? 0) * 1024;
  } catch (error) {
    if (["ENOENT", "ESRCH"].includes((error as NodeJS.ErrnoException).code ?? "")) return 0;
    throw error;
  }
}

/** The process and its children: bosun serve counts as berthd's. */
export function family(pid: number): number[] {
  const children = readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8").trim();
  return [pid, ...children.split(" ").filter(Boolean).map(Number)];
}

/**
 * PSS in bytes of a daemon and its children as on a node, where no bench runs beside them: pages of their own executables, which
 * this program may map too, count whole.
 */
export function daemonPss(pid: number): number {
  return family(pid).reduce((sum, member) => sum + pss(member) + sharedExecutable(member), 0);
}

function sharedExecutable(pid: number): number {
  const executable = readlinkSync(`/proc/${pid}/exe`);
  let shared = 0;
  for (const mapping of readFileSync(`/proc/${pid}/smaps`, "utf8").split(/^(?=[0-9a-f]+-[0-9a-f]+ )/m)) {
    if (!mapping.slice(0, mapping.indexOf("\n")).endsWith(executable)) continue;
    const field = (name: string): number => Number(new RegExp(`^${name}:\\s+(\\d+) kB$`, "m").exec(mapping)?.[1] ?? 0);
    shared += (field("Rss") - field("Pss")) * 1024;
  }
  return shared;
}

/** Every process whose /proc/PID/comm or command line matches. */
export function processesLike(pattern: RegExp): number[] {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .filter((pid) => {
      try {
        return pattern.test(
          `${readFileSync(`/proc/${pid}/comm`, "utf8").trim()} ${readFileSync(`/proc/${pid}/cmdline`, "utf8").replaceAll("\0", " ")}`,
        );
      } catch (error) {
        if (["ENOENT", "ESRCH"].includes((error as NodeJS.ErrnoException).code ?? "")) return false;
        throw error;
      }
    });
}

/** Kernel memory in bytes: slab, page tables and kernel stacks (proc(5), meminfo). */
export function kernelMemory(): number {
  const text = readFileSync("/proc/meminfo", "utf8");
  return ["Slab", "PageTables", "KernelStack"].reduce(
    (sum, key) => sum + Number(new RegExp(`^${key}:\\s+(\\d+) kB$`, "m").exec(text)?.[1] ?? 0) * 1024,
    0,
  );
}

/** Milliseconds of processor time that a process and its threads have had (proc(5), stat). */
export function processorTime(pid: number): number {
  const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  // Fields 14 and 15, in ticks, of which Linux shows a hundred to the second.
  return (Number(fields[11]) + Number(fields[12])) * 10;
}

/** Forgets the largest resident size so far (proc(5), clear_refs). */
export function resetPeak(pid: number): void {
  writeFileSync(`/proc/${pid}/clear_refs`, "5");
}

/**
 * The largest resident size since `resetPeak`, in bytes, without pages of files: those of the executable are the page
 * cache's, and any number of processes share them.
 */
export function peak(pid: number): number {
  const status = readFileSync(`/proc/${pid}/status`, "utf8");
  const field = (name: string): number =>
    Number(new RegExp(`^${name}:\\s+(\\d+) kB$`, "m").exec(status)?.[1] ?? 0) * 1024;
  return field("VmHWM") - field("RssFile");
}
