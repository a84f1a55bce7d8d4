/** `--memory`, `--cpus` and the other limits, as the CRI's resources. */
import type { MessageInitShape } from "@bufbuild/protobuf";
import type { cri } from "@berth/spec";
import { Failure } from "../failure.ts";
import { parseBytes } from "../units.ts";

export interface LimitFlags {
  readonly memory?: string;
  readonly memorySwap?: string;
  readonly cpus?: string;
  readonly cpuPeriod?: string;
  readonly cpuQuota?: string;
  readonly cpuShares?: string;
  readonly cpusetCpus?: string;
  readonly cpusetMems?: string;
  readonly pidsLimit?: string;
  readonly oomScoreAdj?: string;
}

/** Microseconds; the kernel's default. */
const CPU_PERIOD = 100_000n;

export function limits(flags: LimitFlags): MessageInitShape<typeof cri.LinuxContainerResourcesSchema> {
  if (flags.cpus !== undefined && (flags.cpuPeriod !== undefined || flags.cpuQuota !== undefined)) {
    throw new Failure("--cpus excludes --cpu-period and --cpu-quota: it sets both");
  }
  return {
    ...(flags.memory !== undefined && { memoryLimitInBytes: parseBytes(flags.memory, "--memory") }),
    ...(flags.memorySwap !== undefined && {
      memorySwapLimitInBytes: flags.memorySwap === "-1" ? -1n : parseBytes(flags.memorySwap, "--memory-swap"),
    }),
    ...(flags.cpus !== undefined && { cpuPeriod: CPU_PERIOD, cpuQuota: quotaOf(flags.cpus) }),
    ...(flags.cpuPeriod !== undefined && { cpuPeriod: integer(flags.cpuPeriod, "--cpu-period", 1000, 1_000_000) }),
    ...(flags.cpuQuota !== undefined && { cpuQuota: integer(flags.cpuQuota, "--cpu-quota", -1) }),
    ...(flags.cpuShares !== undefined && { cpuShares: integer(flags.cpuShares, "--cpu-shares", 2, 262_144) }),
    ...(flags.cpusetCpus !== undefined && { cpusetCpus: cpuList(flags.cpusetCpus, "--cpuset-cpus") }),
    ...(flags.cpusetMems !== undefined && { cpusetMems: cpuList(flags.cpusetMems, "--cpuset-mems") }),
    ...(flags.pidsLimit !== undefined && { unified: { "pids.max": pidsMax(flags.pidsLimit) } }),
    ...(flags.oomScoreAdj !== undefined && { oomScoreAdj: integer(flags.oomScoreAdj, "--oom-score-adj", -1000, 1000) }),
  };
}

function quotaOf(text: string): bigint {
  const cpus = /^\d*\.?\d+$/.test(text) ? Number(text) : NaN;
  // The kernel's least quota is a millisecond a period.
  if (!(cpus >= 0.01)) throw new Failure(`--cpus: "${text}" is not a number of CPUs of at least 0.01, as in 1.5`);
  return BigInt(Math.round(cpus * Number(CPU_PERIOD)));
}

function integer(text: string, option: string, least: number, most = Number.MAX_SAFE_INTEGER): bigint {
  const value = /^-?\d+$/.test(text) ? Number(text) : NaN;
  if (!(value >= least && value <= most)) {
    throw new Failure(
      `${option}: "${text}" is not a whole number ${most === Number.MAX_SAFE_INTEGER ? `of at least ${least}` : `from ${least} to ${most}`}`,
    );
  }
  return BigInt(value);
}

function cpuList(text: string, option: string): string {
  if (!/^\d+(-\d+)?(,\d+(-\d+)?)*$/.test(text)) throw new Failure(`${option}: "${text}" is not a list, as in 0-2,4`);
  return text;
}

/** The CRI has no field for it, but passes settings of cgroup v2 through by their files' names; berthd refuses them on v1 and hybrid machines. */
const pidsMax = (text: string): string =>
  text === "-1" || text === "0" ? "max" : integer(text, "--pids-limit", 1).toString();

/** Bytes that the container may write, of docker's `--storage-opt size=`; undefined: as berthd is configured. */
export function storageSize(options: readonly string[]): bigint | undefined {
  let size: bigint | undefined;
  for (const option of options) {
    const [key, value, ...more] = option.split("=");
    if (key !== "size" || value === undefined || more.length > 0)
      throw new Failure(`--storage-opt: "${option}" is not size=SIZE, the one option there is`);
    size = parseBytes(value, "--storage-opt size");
  }
  return size;
}
