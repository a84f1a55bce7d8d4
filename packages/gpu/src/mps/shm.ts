/** The shared memory of MPS: a tmpfs that the daemon's pod and its clients have as /dev/shm. */
import { mkdir, readFile } from "node:fs/promises";
import { sharedMemory } from "./places.ts";
import { run } from "./program.ts";

/** Mounts it anew. Rejects where it cannot. */
export async function mountSharedMemory(root: string): Promise<void> {
  const dir = sharedMemory(root);
  while ((await mounts()).includes(dir)) await run("umount", [dir]);
  await mkdir(dir, { recursive: true, mode: 0o755 });
  const options = `rw,nosuid,nodev,noexec,relatime,size=${halfOfMemory(await readFile("/proc/meminfo", "utf8"))}`;
  await run("mount", ["-t", "tmpfs", "-o", options, "shm", dir]);
}

/** As a tmpfs's size, of /proc/meminfo's text. */
export function halfOfMemory(meminfo: string): string {
  const kilobytes = Number(/^MemTotal:\s+(\d+) kB$/m.exec(meminfo)?.[1] ?? Number.NaN);
  return Number.isNaN(kilobytes) ? "65536k" : `${Math.floor(kilobytes / 2)}k`;
}

/** Mount points of this process (proc_pid_mountinfo(5)); spaces and the like are octal in it. */
async function mounts(): Promise<string[]> {
  const lines = (await readFile("/proc/self/mountinfo", "utf8")).split("\n");
  return lines.map((line) =>
    (line.split(" ")[4] ?? "").replace(/\\([0-7]{3})/g, (_, octal: string) =>
      String.fromCharCode(Number.parseInt(octal, 8)),
    ),
  );
}
