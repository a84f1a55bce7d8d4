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

function parse(text: string): Pressure {
  const lines = new Map(text.split("\n").map((line) => [line.split(" ", 1)[0], line]));
  return { some: stall(lines.get("some")), full: stall(lines.get("full")) };
}

function stall(line: string | undefined): Stall {
  if (line === undefined) return NONE;
  const field = (name: string): string => new RegExp(`\\b${name}=([0-9.]+)`).exec(line)?.[1] ?? "0";
  return {
    totalUs: BigInt(field("total")),
    avg10: Number(field("avg10")),
    avg60: Number(field("avg60")),
    avg300: Number(field("avg300")),
  };
}
