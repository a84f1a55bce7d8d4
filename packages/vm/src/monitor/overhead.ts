/** What a pod costs beside what its containers use: the difference of its machine's cgroup on the node and theirs in the guest. */
import type { Usage } from "../guest/runtime.ts";
import type { Family } from "./exposition.ts";
import { single } from "./families.ts";

export interface UsageOfBoth {
  /** Of the hypervisor and its helpers. */
  readonly node: Usage;
  /** Of all containers, as the guest counts. */
  readonly guest: Usage;
}

interface Seen extends UsageOfBoth {
  readonly atMs: number;
}

/** Each answer is about the time since the one before; the first says nothing of processors. */
export class Overhead {
  #before: Seen | undefined;

  families({ node, guest }: UsageOfBoth, atMs: number = performance.now()): Family[] {
    const before = this.#before;
    this.#before = { node, guest, atMs };
    const memory = single("kata_shim_pod_overhead_memory_in_bytes", Number(node.memoryBytes - guest.memoryBytes));
    if (!before || atMs <= before.atMs) return [memory];
    const spent = node.cpuNs - before.node.cpuNs - (guest.cpuNs - before.guest.cpuNs);
    const percent = (Number(spent) / ((atMs - before.atMs) * 1e6)) * 100;
    return [single("kata_shim_pod_overhead_cpu", percent), memory];
  }
}
