/** Where a pod's cgroups live: the kubelet names a parent; pods without one go below the daemon's own root. */
import type { cri } from "@berth/spec";
import type { CriContext } from "./context.ts";
import { invalid } from "./errors.ts";

export function cgroupParentOf(context: CriContext, config: cri.PodSandboxConfig): string {
  const parent = config.linux?.cgroupParent ?? "";
  if (parent === "") return context.config.cgroupRoot;
  if (parent.includes("..")) throw invalid(`linux.cgroup_parent: "${parent}" must not contain ".."`);
  if (!parent.startsWith("/")) {
    throw invalid(
      `linux.cgroup_parent: "${parent}" is a systemd slice, and berthd runs with the cgroupfs driver; set cgroupDriver: cgroupfs in the kubelet's configuration`,
    );
  }
  return parent === "/" ? "" : parent.replace(/\/+$/, "");
}
