/** Pressure stall information of a cgroup (Documentation/accounting/psi.rst): how long its tasks waited for what they lacked. */
import { readCgroupFile } from "./file.ts";
import { join } from "node:path";

export interface Stall {
  /** Microseconds since the cgroup was made. */
  readonly totalUs: bigint;
  /** Per cent of the last 10, 60 and 300 seconds. */
  readonly avg10: number;
  readonly avg60: number;
  readonly avg300: number;
}

/** `some`: at least one task waited; `full`: all did. */
export interface Pressure {
  readonly some: Stall;
  readonly full: Stall;
}

export interface CgroupPressure {
  readonly cpu: Pressure;
  readonly memory: Pressure;
  readonly io: Pressure;
}

const NONE: Stall = { totalUs: 0n, avg10: 0, avg60: 0, avg300: 0 };

/** Of a cgroup2 directory, also on hybrid machines: the kernel counts it apart from the controllers. Undefined without it. */
export async function readPressure(directory: string | undefined): Promise<CgroupPressure | undefined> {
  if (directory === undefined) return undefined;
  try {
    const [cpu, memory, io] = await Promise.all(
      ["cpu", "memory", "io"].map(async (name) => parse(await readCgroupFile(join(directory, `${name}.pressure`)))),
    );
    return cpu && memory && io ? { cpu, memory, io } : undefined;
  } catch (error) {
    // Built without it, booted with psi=0, or switched off in cgroup.pressure.
    if (["ENOENT", "EOPNOTSUPP"].includes((error as NodeJS.ErrnoException).code ?? "")) return undefined;
    throw error;
  }
}

/** Documentation/accounting/psi.rst: times in per cent, the total in microseconds. */
const LINE = /^(some|full) avg10=([0-9.]+) avg60=([0-9.]+) avg300=([0-9.]+) total=([0-9]+)$/gm;

function parse(text: string): Pressure {
  const stalls = { some: NONE, full: NONE };
  for (const [, kind, avg10, avg60, avg300, total = "0"] of text.matchAll(LINE))
    stalls[kind as keyof typeof stalls] = {
      totalUs: BigInt(total),
      avg10: Number(avg10),
      avg60: Number(avg60),
      avg300: Number(avg300),
    };
  return stalls;
}
