/** Resource limits by name and number (setrlimit(2)). */
import { readFileSync } from "node:fs";
import type { oci } from "@berth/spec";

export const RLIM_INFINITY = 0xffff_ffff_ffff_ffffn;

/** Numbers of every architecture that Node runs on here (x86, arm64). */
export const RLIMITS = {
  RLIMIT_CPU: 0,
  RLIMIT_FSIZE: 1,
  RLIMIT_DATA: 2,
  RLIMIT_STACK: 3,
  RLIMIT_CORE: 4,
  RLIMIT_RSS: 5,
  RLIMIT_NPROC: 6,
  RLIMIT_NOFILE: 7,
  RLIMIT_MEMLOCK: 8,
  RLIMIT_AS: 9,
  RLIMIT_LOCKS: 10,
  RLIMIT_SIGPENDING: 11,
  RLIMIT_MSGQUEUE: 12,
  RLIMIT_NICE: 13,
  RLIMIT_RTPRIO: 14,
  RLIMIT_RTTIME: 15,
} as const;

export type RlimitName = keyof typeof RLIMITS;

export function isRlimitName(name: string): name is RlimitName {
  return Object.hasOwn(RLIMITS, name);
}

export interface Limit {
  readonly soft: bigint;
  readonly hard: bigint;
}

/** The rows of /proc/PID/limits. */
const ROWS: Readonly<Record<string, RlimitName>> = {
  "Max cpu time": "RLIMIT_CPU",
  "Max file size": "RLIMIT_FSIZE",
  "Max data size": "RLIMIT_DATA",
  "Max stack size": "RLIMIT_STACK",
  "Max core file size": "RLIMIT_CORE",
  "Max resident set": "RLIMIT_RSS",
  "Max processes": "RLIMIT_NPROC",
  "Max open files": "RLIMIT_NOFILE",
  "Max locked memory": "RLIMIT_MEMLOCK",
  "Max address space": "RLIMIT_AS",
  "Max file locks": "RLIMIT_LOCKS",
  "Max pending signals": "RLIMIT_SIGPENDING",
  "Max msgqueue size": "RLIMIT_MSGQUEUE",
  "Max nice priority": "RLIMIT_NICE",
  "Max realtime priority": "RLIMIT_RTPRIO",
  "Max realtime timeout": "RLIMIT_RTTIME",
};

/** Limits from the text of /proc/PID/limits (proc_pid_limits(5)). */
export function parseLimits(text: string): Partial<Record<RlimitName, Limit>> {
  const limits: Partial<Record<RlimitName, Limit>> = {};
  for (const line of text.split("\n")) {
    const match = /^(Max [a-z ]+?)\s{2,}(\S+)\s+(\S+)/.exec(line);
    const name = match?.[1] === undefined ? undefined : ROWS[match[1]];
    if (name === undefined || match?.[2] === undefined || match[3] === undefined) continue;
    limits[name] = { soft: limitValue(match[2]), hard: limitValue(match[3]) };
  }
  return limits;
}

function limitValue(text: string): bigint {
  return text === "unlimited" ? RLIM_INFINITY : BigInt(text);
}

export function ownLimits(): Partial<Record<RlimitName, Limit>> {
  return parseLimits(readFileSync("/proc/self/limits", "utf8"));
}

/** A limit as JSON carries it: beyond what 64 bits hold exactly (JSON.parse rounds 2^64-1 up) and -1 are infinity. */
export function rlimitValue(value: number | bigint): bigint {
  const exact = typeof value === "bigint" ? value : BigInt(Math.trunc(value));
  return exact < 0n || exact > RLIM_INFINITY ? RLIM_INFINITY : exact;
}

let own: Partial<Record<RlimitName, Limit>> | undefined;

/** `value` for both limits, or as much of it as this process may give (its own hard limit). */
export function clampRlimit(name: RlimitName, value: number | bigint): oci.Rlimit {
  own ??= parseLimits(readFileSync("/proc/self/limits", "utf8"));
  const wanted = rlimitValue(value);
  const hard = own[name]?.hard ?? RLIM_INFINITY;
  const given = wanted < hard ? wanted : hard;
  const exact = given <= BigInt(Number.MAX_SAFE_INTEGER) ? Number(given) : given;
  return { type: name, soft: exact, hard: exact };
}
