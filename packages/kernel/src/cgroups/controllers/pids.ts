/** pids: how many processes and threads; the same file in both versions (cgroup-v2.rst "PID"). */
import { settings, writeOrder, type Settings } from "../orders.ts";

/** Negative: no limit. 0 is one, the container's own process: none at all could not even start. */
export function pids(limit: number, directory: string): Settings {
  const value = limit < 0 ? "max" : limit === 0 ? "1" : String(limit);
  return settings([writeOrder(directory, "pids.max", value, "linux.resources.pids.limit")]);
}
