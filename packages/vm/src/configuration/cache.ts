/** Which machines can be started before there is a pod for them. */
import type { VmSettings } from "./settings.ts";

/** Why no machine of these settings can wait for a pod; undefined: it can. */
export function cacheProblem({ name, hypervisor, runtime }: VmSettings): string | undefined {
  if (name !== "qemu") return `hypervisor ${name} is not kept ready here: use [hypervisor.qemu]`;
  if (hypervisor.machine_type === "microvm") return "machine_type microvm takes no network devices while it runs";
  if (hypervisor.rootless) return "rootless: its hypervisor is a user of its pod's own, from its start";
  if (hypervisor.shared_fs === "virtio-9p") return "shared_fs virtio-9p: it cannot be plugged";
  if (runtime.internetworking_model === "macvtap")
    return "internetworking_model macvtap: its taps are open from the start";
  return undefined;
}
