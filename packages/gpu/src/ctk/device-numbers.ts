/** The numbers of NVIDIA's device nodes, as the kernel's list of drivers has them: the nodes themselves need not be there. */
import { readFileSync } from "node:fs";
import { gpuAddresses } from "../generate/pci.ts";
import { migMinors } from "../generate/nodes.ts";

export interface NumberedNode {
  readonly path: string;
  readonly major: number;
  readonly minor: number;
}

const DRIVERS = "/proc/devices";
type Driver = "nvidia" | "nvidia-uvm" | "nvidia-caps" | "nvidia-caps-imex-channels";

/** Those that all GPUs share. Throws Error where the driver is not loaded. */
export function controlNodes(): NumberedNode[] {
  const majors = driverMajors();
  const gpu = majorOf(majors, "nvidia");
  const memory = majorOf(majors, "nvidia-uvm");
  return [
    { path: "/dev/nvidiactl", major: gpu, minor: 255 },
    { path: "/dev/nvidia-modeset", major: gpu, minor: 254 },
    { path: "/dev/nvidia-uvm", major: memory, minor: 0 },
    { path: "/dev/nvidia-uvm-tools", major: memory, minor: 1 },
  ];
}

/** Every node that the machine's GPUs, and the MIG devices that they may be divided into, can have; none without a GPU. Throws Error as controlNodes. */
export function possibleNodes(): NumberedNode[] {
  const control = controlNodes();
  const majors = driverMajors();
  const minors = migMinors();
  const caps = minors === undefined ? 0 : majorOf(majors, "nvidia-caps");
  const gpus = gpuAddresses();
  if (gpus.length === 0) return [];
  return [
    ...control,
    ...gpus.map((_, minor) => ({ path: `/dev/nvidia${minor}`, major: majorOf(majors, "nvidia"), minor })),
    ...[...(minors ?? [])].flatMap(([capability, minor]) =>
      isOf(capability, gpus.length) ? { path: `/dev/nvidia-caps/nvidia-cap${minor}`, major: caps, minor } : [],
    ),
  ];
}

/** Capabilities of MIG itself, and of one of so many GPUs. */
function isOf(capability: string, gpus: number): boolean {
  const gpu = /^gpu(\d+)\/gi\d+(?:\/ci\d+)?\/access$/.exec(capability)?.[1];
  return gpu === undefined ? capability === "config" || capability === "monitor" : Number(gpu) < gpus;
}

function driverMajors(): Map<string, number> {
  const lines = [...readFileSync(DRIVERS, "utf8").matchAll(/^\s*(\d+)\s+(nvidia\S*)\s*$/gm)];
  if (lines.length === 0)
    throw new Error(`${DRIVERS} has no nvidia: the driver is not loaded (--load-kernel-modules loads it)`);
  return new Map(lines.map(([, major, name]) => [name ?? "", Number(major)]));
}

/** Throws Error where the kernel has no driver of this name. */
export const majorOfDriver = (driver: Driver): number => majorOf(driverMajors(), driver);

/** Before 550.40 the driver of the GPUs was called "nvidia-frontend". */
function majorOf(majors: ReadonlyMap<string, number>, driver: Driver): number {
  const major = majors.get(driver) ?? (driver === "nvidia" ? majors.get("nvidia-frontend") : undefined);
  if (major === undefined) throw new Error(`${DRIVERS} has no ${driver}: load that module of the driver`);
  return major;
}
