/** cpuset: which CPUs and memory nodes (cpuset(7)). v1 wants both set before anything may join; v2 inherits by itself. */
import { dirname } from "node:path";
import type { oci } from "@berth/spec";
import type { Order } from "../../orders/plan.ts";
import { settings, writeOrder, type Settings } from "../orders.ts";

const FIELD = "linux.resources.cpu";

/** Fills the empty sets of the cgroup and of those between it and the hierarchy's root, from the top. */
export function seedCpuset(directory: string, mountpoint: string): Order[] {
  const chain: string[] = [];
  for (let path = directory; path.length > mountpoint.length; path = dirname(path)) chain.unshift(path);
  return chain.map((path): Order => ({
    order: "inherit_cpuset",
    args: { path, files: ["cpuset.cpus", "cpuset.mems"] },
    because: "linux.cgroupsPath",
  }));
}

/** The same files in both versions. */
export function cpuset(cpu: oci.LinuxCPU, directory: string): Settings {
  const orders: Order[] = [];
  if (cpu.cpus) orders.push(writeOrder(directory, "cpuset.cpus", cpu.cpus, `${FIELD}.cpus`));
  if (cpu.mems) orders.push(writeOrder(directory, "cpuset.mems", cpu.mems, `${FIELD}.mems`));
  return settings(orders);
}
