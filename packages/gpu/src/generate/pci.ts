/** What sysfs says of the GPUs, whether their driver is loaded or not. */
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";

const DEVICES = "/sys/bus/pci/devices";
const NVIDIA = 0x10de;
/** VGA and 3D controllers. */
const GPU_CLASSES = [0x030000, 0x030200];

/** Addresses of NVIDIA's GPUs, as "0000:01:00.0", in their order: the driver counts them so. Virtual functions are none. */
export function gpuAddresses(): string[] {
  if (!existsSync(DEVICES)) return [];
  return readdirSync(DEVICES)
    .sort()
    .filter((address) => isGpu(join(DEVICES, address)));
}

function isGpu(dir: string): boolean {
  return (
    numberIn(dir, "vendor") === NVIDIA &&
    GPU_CLASSES.includes(numberIn(dir, "class")) &&
    !existsSync(join(dir, "physfn"))
  );
}

/** NaN for a function that has no such file. */
function numberIn(dir: string, name: string): number {
  const file = join(dir, name);
  return existsSync(file) ? Number(readFileSync(file, "utf8").trim()) : NaN;
}
