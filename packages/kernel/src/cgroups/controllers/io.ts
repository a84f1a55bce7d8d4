/** blkio (v1) and io (v2): weights and throttles by device (blkio-controller.rst, cgroup-v2.rst "IO"). */
import type { oci } from "@berth/spec";
import type { Order } from "../../orders/plan.ts";
import { ResourceError, settings, writeOrder, type Settings } from "../orders.ts";

const FIELD = "linux.resources.blockIO";

const THROTTLES = [
  { field: "throttleReadBpsDevice", v1: "blkio.throttle.read_bps_device", v2: "rbps" },
  { field: "throttleWriteBpsDevice", v1: "blkio.throttle.write_bps_device", v2: "wbps" },
  { field: "throttleReadIOPSDevice", v1: "blkio.throttle.read_iops_device", v2: "riops" },
  { field: "throttleWriteIOPSDevice", v1: "blkio.throttle.write_iops_device", v2: "wiops" },
] as const;

/** `bfq`: on v1 only the BFQ scheduler has weights; CFQ's went in 5.0. */
export function blkioV1(io: oci.LinuxBlockIO, directory: string, bfq: boolean): Settings {
  const orders: Order[] = [];
  const warnings: string[] = [];
  const weights = (io.weight ? 1 : 0) + (io.weightDevice ?? []).filter(({ weight }) => weight).length;
  if (weights > 0 && !bfq)
    warnings.push(
      `${FIELD}.weight: not applied: on cgroup v1 it needs the BFQ I/O scheduler, which this machine does not have`,
    );
  if (io.weight && bfq)
    orders.push(writeOrder(directory, "blkio.bfq.weight", checkedWeight(io.weight), `${FIELD}.weight`));
  for (const [index, device] of (io.weightDevice ?? []).entries()) {
    if (device.weight && bfq)
      orders.push(
        writeOrder(
          directory,
          "blkio.bfq.weight_device",
          `${device.major}:${device.minor} ${device.weight}`,
          `${FIELD}.weightDevice[${index}]`,
        ),
      );
  }
  if (io.leafWeight || io.weightDevice?.some((device) => device.leafWeight)) warnings.push(leafWarning);
  for (const { field, v1 } of THROTTLES) {
    for (const [index, device] of (io[field] ?? []).entries()) {
      orders.push(
        writeOrder(directory, v1, `${device.major}:${device.minor} ${device.rate}`, `${FIELD}.${field}[${index}]`),
      );
    }
  }
  return settings(orders, warnings);
}

export function ioV2(io: oci.LinuxBlockIO, directory: string, bfq: boolean): Settings {
  const orders: Order[] = [];
  const warnings: string[] = [];
  if (io.weight) {
    const weight = checkedWeight(io.weight);
    orders.push(
      bfq
        ? writeOrder(directory, "io.bfq.weight", weight, `${FIELD}.weight`)
        : writeOrder(directory, "io.weight", ioWeight(weight), `${FIELD}.weight`),
    );
  }
  for (const [index, device] of (io.weightDevice ?? []).entries()) {
    if (!device.weight) continue;
    const value = bfq ? device.weight : ioWeight(device.weight);
    orders.push(
      writeOrder(
        directory,
        bfq ? "io.bfq.weight" : "io.weight",
        `${device.major}:${device.minor} ${value}`,
        `${FIELD}.weightDevice[${index}]`,
      ),
    );
  }
  if (io.leafWeight || io.weightDevice?.some((device) => device.leafWeight)) warnings.push(leafWarning);
  for (const { field, v2 } of THROTTLES) {
    for (const [index, device] of (io[field] ?? []).entries()) {
      const rate = BigInt(device.rate) === 0n ? "max" : String(device.rate);
      orders.push(
        writeOrder(directory, "io.max", `${device.major}:${device.minor} ${v2}=${rate}`, `${FIELD}.${field}[${index}]`),
      );
    }
  }
  return settings(orders, warnings);
}

const leafWarning = `${FIELD}.leafWeight: not applied: Linux 5.0 removed it`;

/** 10 to 1000 (v1) on 1 to 10000 (v2's io.weight), straight. */
export function ioWeight(weight: number): number {
  return Math.floor(1 + ((weight - 10) * 9999) / 990);
}

function checkedWeight(weight: number): number {
  if (weight < 10 || weight > 1000) throw new ResourceError(`${FIELD}.weight`, `${weight} is not between 10 and 1000`);
  return weight;
}
