/** The mounts that plugins remove, replace and add. */
import type { Mount } from "@berth/spec/nri";
import type { oci } from "@berth/spec/oci";
import { marked } from "./marks.ts";

type Propagation = "rshared" | "rslave";
const PROPAGATIONS: readonly string[] = ["rprivate", "rshared", "rslave"];

export async function adjustMounts(
  spec: oci.Spec,
  asked: readonly Mount[],
  check: (source: string, propagation: Propagation) => Promise<void>,
): Promise<oci.Spec> {
  if (asked.length === 0) return spec;
  const touched = new Set(asked.map(({ destination }) => marked(destination)[0]));
  const mounts = (spec.mounts ?? []).filter(({ destination }) => !touched.has(destination));
  let { rootfsPropagation } = spec.linux ?? {};
  for (const { destination, type, source, options } of asked) {
    if (marked(destination)[1]) continue;
    const propagation = options.findLast((option) => PROPAGATIONS.includes(option));
    if (propagation === "rshared" || propagation === "rslave") {
      await check(source, propagation);
      // A volume that propagates needs a root mount that does (mount_namespaces(7)).
      if (propagation === "rshared" || rootfsPropagation !== "rshared") rootfsPropagation = propagation;
    }
    mounts.push({
      destination,
      ...(type !== "" && { type }),
      ...(source !== "" && { source }),
      ...(options.length > 0 && { options }),
    });
  }
  const sorted = mounts.sort((a, b) => depth(a) - depth(b));
  return {
    ...spec,
    mounts: sorted,
    linux: { ...spec.linux, ...(rootfsPropagation !== undefined && { rootfsPropagation }) },
  };
}

/** Parents before children; of equals the first stays first. */
const depth = ({ destination }: oci.Mount): number => destination.split("/").filter((part) => part !== "").length;
