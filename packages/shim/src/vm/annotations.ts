/** What a container is to its pod, by what those who run pods write into its annotations. */
import type { oci } from "@berth/spec";

/** `sandbox`: the first of a pod, which the machine comes and goes with. `single`: no pod's. */
export type Role = "sandbox" | "container" | "single";

/** containerd's CRI, Kata's own, CRI-O's; and their words. */
const KEYS = [
  "io.kubernetes.cri.container-type",
  "io.katacontainers.pkg.oci.container_type",
  "io.kubernetes.cri-o.ContainerType",
] as const;
const ROLES: Readonly<Record<string, Role>> = {
  sandbox: "sandbox",
  pod_sandbox: "sandbox",
  container: "container",
  pod_container: "container",
  single_container: "single",
};

/** Throws where an annotation has a value that nobody knows. */
export function roleOf({ annotations = {} }: Pick<oci.Spec, "annotations">): Role {
  for (const key of KEYS) {
    const value = annotations[key];
    if (value === undefined) continue;
    const role = ROLES[value];
    if (role === undefined)
      throw new Error(`annotations.${key}: "${value}" is none of ${Object.keys(ROLES).join(", ")}`);
    return role;
  }
  return "single";
}
