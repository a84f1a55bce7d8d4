/** What exists on the machine that a daemon could leave behind. */
import { createHash } from "node:crypto";
import { type Dirent, readFileSync, readdirSync } from "node:fs";
import assert from "node:assert/strict";
import type { TestDaemon } from "./daemon.ts";
import { run } from "./daemon.ts";

export interface Inventory {
  readonly mounts: string[];
  readonly cgroups: string[];
  readonly processes: string[];
  readonly interfaces: string[];
  readonly leases: string[];
  readonly files: string[];
}

/** Everything of this daemon: by its directories, its bridge, and its containers' ids. */
export async function inventory(daemon: TestDaemon): Promise<Inventory> {
  const mounts = readFileSync("/proc/self/mountinfo", "utf8")
    .split("\n")
    .filter((line) => line.includes(daemon.dir))
    .map((line) => line.split(" ")[4] ?? "");
  const processes = readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .flatMap((pid) => describe(pid, daemon));
  const cgroups = (await run(["sh", "-c", `find /sys/fs/cgroup -type d -path '*/berth-*' 2>/dev/null || true`]))
    .split("\n")
    .filter((line) => line.includes(`${cgroupName(daemon)}/`));
  const interfaces = (await run(["ip", "-o", "link"]))
    .split("\n")
    .filter((line) => line.includes(`master ${daemon.bridge} `));
  const list = (dir: string): string[] =>
    [...below(dir)].filter((name) => name !== "lock" && name !== "results" && !name.includes("last_reserved"));
  return {
    mounts: mounts.sort(),
    cgroups: cgroups.sort(),
    processes: processes.sort(),
    interfaces,
    leases: list(`${daemon.dir}/leases`)
      .filter((name) => /\d+\.\d+\.\d+\.\d+/.test(name))
      .sort(),
    files: [...list(daemon.state), ...list(daemon.netns), ...list(`${daemon.dir}/cni-cache`)].sort(),
  };
}

/** Every path below `dir`, relative to it; what goes while it is looked at is not there. */
function* below(dir: string, prefix = ""): Generator<string> {
  let entries: Dirent[];
  try {
    entries = readdirSync(`${dir}/${prefix}`, { withFileTypes: true });
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT" && prefix !== "") return;
    throw error;
  }
  for (const entry of entries) {
    yield `${prefix}${entry.name}`;
    if (entry.isDirectory()) yield* below(dir, `${prefix}${entry.name}/`);
  }
}

/** As berthd names its own root in the hierarchies (packages/daemon/src/state.ts). */
const cgroupName = (daemon: TestDaemon): string =>
  `berth-${createHash("sha256").update(daemon.state).digest("hex").slice(0, 8)}`;

/** A monitor's or serve's working files say whose it is. */
function describe(pid: string, daemon: TestDaemon): string[] {
  try {
    const comm = readFileSync(`/proc/${pid}/comm`, "utf8").trim();
    if (!comm.startsWith("bosun")) return [];
    const sockets = readFileSync(`/proc/${pid}/environ`, "latin1") + readFileSync(`/proc/${pid}/cmdline`, "latin1");
    return sockets.includes(daemon.dir) ? [comm] : [];
  } catch (error) {
    if (["ENOENT", "ESRCH"].includes((error as NodeJS.ErrnoException).code ?? "")) return [];
    throw error;
  }
}

/** After: as before. The kernel takes interfaces down with their namespace a little later than the call that ended it. */
export async function assertNothingLeft(daemon: TestDaemon, before: Inventory): Promise<void> {
  let after = await inventory(daemon);
  const begun = Date.now();
  // Behind a pod in a virtual machine a template of it may be made yet, which takes as long as an emulated machine does to boot.
  const limit = (): number => (after.files.some((name) => name.startsWith("vm/tpl-")) ? 180_000 : 30_000);
  while (Date.now() < begun + limit() && JSON.stringify(after) !== JSON.stringify(before)) {
    await new Promise((resolve) => setTimeout(resolve, 50));
    after = await inventory(daemon);
  }
  assert.deepEqual(after, before);
}
