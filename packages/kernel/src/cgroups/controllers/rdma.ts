/** rdma: handles and objects by device; the same file in both versions (cgroup-v2.rst "RDMA"). */
import type { oci } from "@berth/spec";
import { settings, writeOrder, type Settings } from "../orders.ts";

export function rdma(limits: Readonly<Record<string, oci.LinuxRdma>>, directory: string): Settings {
  return settings(
    Object.entries(limits).map(([device, limit]) => {
      const values = [
        ...(limit.hcaHandles === undefined ? [] : [`hca_handle=${limit.hcaHandles}`]),
        ...(limit.hcaObjects === undefined ? [] : [`hca_object=${limit.hcaObjects}`]),
      ];
      return writeOrder(
        directory,
        "rdma.max",
        [device, ...values].join(" "),
        `linux.resources.rdma[${JSON.stringify(device)}]`,
      );
    }),
  );
}
