/** hugetlb: huge pages by size, used and reserved ones (hugetlb.rst of cgroup-v1, cgroup-v2.rst "HugeTLB"). */
import type { oci } from "@berth/spec";
import { settings, writeOrder, type Settings } from "../orders.ts";

export function hugetlb(limits: readonly oci.LinuxHugepageLimit[], directory: string, version: "v1" | "v2"): Settings {
  const [file, reserved] = version === "v1" ? ["limit_in_bytes", "rsvd.limit_in_bytes"] : ["max", "rsvd.max"];
  return settings(
    limits.flatMap((limit, index) => {
      const because = `linux.resources.hugepageLimits[${index}]`;
      const size = pageSizeName(limit.pageSize);
      return [
        writeOrder(directory, `hugetlb.${size}.${file}`, limit.limit, because),
        // Without it a mapping that reserves pages is killed by SIGBUS at its first touch instead of being refused.
        writeOrder(directory, `hugetlb.${size}.${reserved}`, limit.limit, because),
      ];
    }),
  );
}

/** The kernel's file names say "2MB" and "1GB"; Kubernetes says "2Mi" and "1Gi". */
export function pageSizeName(size: string): string {
  return size
    .replace(/i?B?$/i, "")
    .replace(/([kmgt])$/i, (unit) => unit.toUpperCase())
    .concat("B");
}
