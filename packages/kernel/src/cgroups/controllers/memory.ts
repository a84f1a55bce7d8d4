/** memory: limit, reservation, swap; bytes, -1 for none (memory.rst of cgroup-v1, cgroup-v2.rst "Memory"). */
import { join } from "node:path";
import type { oci } from "@berth/spec";
import type { Order } from "../../orders/plan.ts";
import { ResourceError, settings, writeOrder, type Settings } from "../orders.ts";

const FIELD = "linux.resources.memory";

/** `swap`: whether the machine accounts swap (memory.memsw.* exist). */
export function memoryV1(memory: oci.LinuxMemory, directory: string, swap: boolean): Settings {
  const orders: Order[] = [];
  const warnings: string[] = [];
  const write = (file: string, value: number, field: string) =>
    orders.push(writeOrder(directory, file, value, `${FIELD}.${field}`));
  checkSwap(memory);
  const total = memory.limit === -1 ? -1 : memory.swap;
  const setsTotal = total !== undefined && total !== 0;
  if (setsTotal && !swap)
    warnings.push(`${FIELD}.swap: not applied: this machine does not account swap (boot with swapaccount=1)`);
  // memsw must never be below the limit, whichever way either moves: lift it, set the limit, then lower it.
  if (setsTotal && swap) write("memory.memsw.limit_in_bytes", -1, "swap");
  if (memory.limit) write("memory.limit_in_bytes", memory.limit, "limit");
  if (setsTotal && swap && total !== -1) write("memory.memsw.limit_in_bytes", total, "swap");
  if (memory.reservation) write("memory.soft_limit_in_bytes", memory.reservation, "reservation");
  if (memory.swappiness !== undefined) write("memory.swappiness", checkedSwappiness(memory.swappiness), "swappiness");
  if (memory.disableOOMKiller) write("memory.oom_control", 1, "disableOOMKiller");
  if (memory.kernelTCP) write("memory.kmem.tcp.limit_in_bytes", memory.kernelTCP, "kernelTCP");
  if (memory.kernel)
    warnings.push(`${FIELD}.kernel: not applied: the specification deprecates it and Linux 5.16 removed it`);
  return settings(orders, warnings);
}

export function memoryV2(memory: oci.LinuxMemory, directory: string, swap: boolean): Settings {
  const orders: Order[] = [];
  const warnings: string[] = [];
  const write = (file: string, value: number | string, field: string) =>
    orders.push(writeOrder(directory, file, value, `${FIELD}.${field}`));
  const swapMax = swapOnly(memory);
  if (memory.checkBeforeUpdate && memory.limit !== undefined && memory.limit > 0) {
    const args = { path: join(directory, "memory.current"), limit: BigInt(memory.limit) };
    orders.push({ order: "check_below", args, because: `${FIELD}.checkBeforeUpdate` });
  }
  if (swapMax !== undefined && swap) write("memory.swap.max", swapMax, "swap");
  else if (swapMax !== undefined)
    warnings.push(`${FIELD}.swap: not applied: this machine does not account swap (boot with swapaccount=1)`);
  if (memory.limit) write("memory.max", limitText(memory.limit), "limit");
  if (memory.reservation) write("memory.low", limitText(memory.reservation), "reservation");
  for (const field of ["swappiness", "disableOOMKiller", "kernel", "kernelTCP"] as const) {
    if (memory[field]) warnings.push(`${FIELD}.${field}: not applied: cgroup v2 has no such setting`);
  }
  return settings(orders, warnings);
}

/** v2's memory.swap.max counts swap alone, OCI's `swap` memory and swap together. */
function swapOnly(memory: oci.LinuxMemory): string | undefined {
  const { limit, swap } = memory;
  checkSwap(memory);
  if (swap === undefined || swap === 0) return limit === -1 ? "max" : undefined;
  if (swap === -1) return "max";
  if (limit === undefined || limit <= 0)
    throw new ResourceError(`${FIELD}.swap`, `${swap} needs a memory limit: cgroup v2 limits swap alone`);
  return String(swap - limit);
}

function checkSwap({ limit, swap }: oci.LinuxMemory): void {
  if (swap === undefined || swap <= 0 || limit === undefined || limit <= 0) return;
  if (swap < limit)
    throw new ResourceError(
      `${FIELD}.swap`,
      `${swap} is memory and swap together and must not be below the memory limit ${limit}`,
    );
}

function checkedSwappiness(value: number): number {
  if (value > 100) throw new ResourceError(`${FIELD}.swappiness`, `${value} is not between 0 and 100`);
  return value;
}

function limitText(bytes: number): string {
  return bytes < 0 ? "max" : String(bytes);
}
