/**
 * Addresses that nobody owns. host-local reserves one by making a file and then writes whose it is into it; killed in between, it
 * leaves an empty file, which no DEL finds, and so an address less for ever.
 */
import { stat } from "node:fs/promises";
import { join } from "node:path";
import type { Hand } from "@berth/kernel";
import { isObject, type NetworkConf } from "./conf.ts";

/** host-local's own default. */
const DATA_DIR = "/var/lib/cni/networks";
/** Of flock(1): another host-local holds the lock for as long as it looks for an address. */
const LOCK_SECONDS = "5";
const TIMEOUT_MS = 10_000;

/** Removes what is empty under host-local's own lock, so that none of these files is one that is being written. */
export async function sweepLeases(hand: Hand, network: NetworkConf): Promise<void> {
  for (const dir of leaseDirs(network)) {
    const lock = join(dir, "lock");
    if (!(await exists(lock))) continue;
    const empty = ["find", dir, "-maxdepth", "1", "-type", "f", "-empty", "!", "-name", "lock", "-delete"];
    const argv = ["flock", "--timeout", LOCK_SECONDS, lock, ...empty];
    const { status, stderr } = await hand.spawn({ argv, env: { PATH: "/usr/bin:/bin" } }, { timeoutMs: TIMEOUT_MS });
    if (status !== 0)
      throw new Error(
        `addresses without an owner in ${dir}: ${Buffer.from(stderr).toString().trim() || "its lock is held"}`,
      );
  }
}

function leaseDirs({ name, plugins }: NetworkConf): string[] {
  return plugins.flatMap(({ raw: { ipam } }) => {
    if (!isObject(ipam) || ipam["type"] !== "host-local") return [];
    const { dataDir } = ipam;
    return [join(typeof dataDir === "string" && dataDir !== "" ? dataDir : DATA_DIR, name)];
  });
}

async function exists(path: string): Promise<boolean> {
  try {
    await stat(path);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return false;
    throw error;
  }
}
