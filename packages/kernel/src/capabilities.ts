/** Capabilities by name and number (capabilities(7)); sets are masks with bit n for capability n. */
import { readFileSync } from "node:fs";

/** In the kernel's numbering, from 0; the last one came with Linux 5.9. */
export const CAPABILITIES = [
  "CAP_CHOWN",
  "CAP_DAC_OVERRIDE",
  "CAP_DAC_READ_SEARCH",
  "CAP_FOWNER",
  "CAP_FSETID",
  "CAP_KILL",
  "CAP_SETGID",
  "CAP_SETUID",
  "CAP_SETPCAP",
  "CAP_LINUX_IMMUTABLE",
  "CAP_NET_BIND_SERVICE",
  "CAP_NET_BROADCAST",
  "CAP_NET_ADMIN",
  "CAP_NET_RAW",
  "CAP_IPC_LOCK",
  "CAP_IPC_OWNER",
  "CAP_SYS_MODULE",
  "CAP_SYS_RAWIO",
  "CAP_SYS_CHROOT",
  "CAP_SYS_PTRACE",
  "CAP_SYS_PACCT",
  "CAP_SYS_ADMIN",
  "CAP_SYS_BOOT",
  "CAP_SYS_NICE",
  "CAP_SYS_RESOURCE",
  "CAP_SYS_TIME",
  "CAP_SYS_TTY_CONFIG",
  "CAP_MKNOD",
  "CAP_LEASE",
  "CAP_AUDIT_WRITE",
  "CAP_AUDIT_CONTROL",
  "CAP_SETFCAP",
  "CAP_MAC_OVERRIDE",
  "CAP_MAC_ADMIN",
  "CAP_SYSLOG",
  "CAP_WAKE_ALARM",
  "CAP_BLOCK_SUSPEND",
  "CAP_AUDIT_READ",
  "CAP_PERFMON",
  "CAP_BPF",
  "CAP_CHECKPOINT_RESTORE",
] as const;

const NUMBERS: ReadonlyMap<string, number> = new Map(CAPABILITIES.map((name, number) => [name, number]));

export const CAP_SYS_RESOURCE = 1n << 24n;
export const CAP_SYS_ADMIN = 1n << 21n;

/** Capability number of a name as specifications write it ("CAP_CHOWN"), or undefined. */
export function capabilityNumber(name: string): number | undefined {
  return NUMBERS.get(name);
}

/** The mask of a list of names, with the names that this version does not know. */
export function capabilityMask(names: readonly string[]): { mask: bigint; unknown: string[] } {
  let mask = 0n;
  const unknown: string[] = [];
  for (const name of names) {
    const number = NUMBERS.get(name);
    if (number === undefined) unknown.push(name);
    else mask |= 1n << BigInt(number);
  }
  return { mask, unknown };
}

let known: readonly string[] | undefined;

/** Every capability that the running kernel knows, by name. */
export function capabilityNames(): readonly string[] {
  known ??= CAPABILITIES.slice(0, Number(readFileSync("/proc/sys/kernel/cap_last_cap", "utf8")) + 1);
  return known;
}

/** Names of a mask's bits; a bit without a name is "CAP_<number>". */
export function capabilitiesOfMask(mask: bigint): string[] {
  const names: string[] = [];
  for (let number = 0; mask >> BigInt(number) > 0n; number++) {
    if ((mask >> BigInt(number)) & 1n) names.push(CAPABILITIES[number] ?? `CAP_${number}`);
  }
  return names;
}

export interface OwnCapabilities {
  readonly effective: bigint;
  readonly bounding: bigint;
  /** Highest number that the running kernel knows (/proc/sys/kernel/cap_last_cap). */
  readonly last: number;
}

/** What this process, and so bosun, may do. */
export function ownCapabilities(): OwnCapabilities {
  const status = readFileSync("/proc/self/status", "utf8");
  const last = readFileSync("/proc/sys/kernel/cap_last_cap", "utf8");
  return { effective: statusMask(status, "CapEff"), bounding: statusMask(status, "CapBnd"), last: Number(last) };
}

/** A mask of a /proc/PID/status text, as in "CapEff:\t000001ffffffffff". Throws where the key is absent. */
export function statusMask(status: string, key: string): bigint {
  const hex = new RegExp(`^${key}:\\s*([0-9a-f]+)$`, "m").exec(status)?.[1];
  if (hex === undefined) throw new Error(`/proc/self/status has no ${key}`);
  return BigInt(`0x${hex}`);
}
