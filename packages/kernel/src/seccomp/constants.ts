/** Numbers of seccomp(2), bpf(4) and libseccomp's API. */
import type { oci } from "@berth/spec";

export const SECCOMP_RET = {
  KILL_PROCESS: 0x8000_0000,
  KILL_THREAD: 0x0000_0000,
  TRAP: 0x0003_0000,
  ERRNO: 0x0005_0000,
  NOTIFY: 0x7fc0_0000,
  TRACE: 0x7ff0_0000,
  LOG: 0x7ffc_0000,
  ALLOW: 0x7fff_0000,
} as const;

export const EPERM = 1;
export const ENOSYS = 38;
/** A filter has at most so many instructions (BPF_MAXINSNS). */
export const MOST_INSTRUCTIONS = 4096;
/** sizeof(struct sock_filter). */
export const INSTRUCTION_SIZE = 8;

/** Libseccomp's enum scmp_compare. */
export const COMPARISONS: Readonly<Record<oci.SeccompOperator, number>> = {
  SCMP_CMP_NE: 1,
  SCMP_CMP_LT: 2,
  SCMP_CMP_LE: 3,
  SCMP_CMP_EQ: 4,
  SCMP_CMP_GE: 5,
  SCMP_CMP_GT: 6,
  SCMP_CMP_MASKED_EQ: 7,
};

/** SECCOMP_FILTER_FLAG_*. TSYNC means nothing to a process with one thread. */
export const FILTER_FLAGS: Readonly<Record<string, bigint>> = {
  SECCOMP_FILTER_FLAG_TSYNC: 0n,
  SECCOMP_FILTER_FLAG_LOG: 2n,
  SECCOMP_FILTER_FLAG_SPEC_ALLOW: 4n,
  SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV: 32n,
};

/** A profile that cannot be made into a filter; `field` is its path below linux.seccomp. */
export class SeccompError extends Error {
  override readonly name = "SeccompError";
  readonly field: string;
  constructor(field: string, message: string) {
    super(`linux.seccomp.${field}: ${message}`);
    this.field = `linux.seccomp.${field}`;
  }
}

/** The kernel's number for an action; errno defaults to EPERM. Throws SeccompError. */
export function actionNumber(action: oci.SeccompAction, errno: number | undefined, field: string): number {
  switch (action) {
    case "SCMP_ACT_KILL":
    case "SCMP_ACT_KILL_THREAD":
      return SECCOMP_RET.KILL_THREAD;
    case "SCMP_ACT_KILL_PROCESS":
      return SECCOMP_RET.KILL_PROCESS;
    case "SCMP_ACT_TRAP":
      return SECCOMP_RET.TRAP;
    case "SCMP_ACT_ERRNO":
      return SECCOMP_RET.ERRNO | ((errno ?? EPERM) & 0xffff);
    case "SCMP_ACT_TRACE":
      return SECCOMP_RET.TRACE | ((errno ?? EPERM) & 0xffff);
    case "SCMP_ACT_ALLOW":
      return SECCOMP_RET.ALLOW;
    case "SCMP_ACT_LOG":
      return SECCOMP_RET.LOG;
    case "SCMP_ACT_NOTIFY":
      return SECCOMP_RET.NOTIFY;
    default:
      throw new SeccompError(field, `${JSON.stringify(action)} is not a seccomp action`);
  }
}

/** The mask of flag names. Absent: SPEC_ALLOW, as runc has it. Throws SeccompError. */
export function filterFlags(flags: readonly string[] | undefined): bigint {
  let mask = 0n;
  for (const flag of flags ?? ["SECCOMP_FILTER_FLAG_SPEC_ALLOW"]) {
    const bit = Object.hasOwn(FILTER_FLAGS, flag) ? FILTER_FLAGS[flag] : undefined;
    if (bit === undefined) throw new SeccompError("flags", `${JSON.stringify(flag)} is not a seccomp filter flag`);
    mask |= bit;
  }
  return mask;
}
