/**
 * ENOSYS for system calls that are newer than the profile. A program that probes for a new call expects ENOSYS and falls
 * back; the profile's EPERM would make it fail. So a few instructions in front of the filter answer ENOSYS to any call above
 * the highest number that the profile names on that architecture.
 */
import { ENOSYS, SECCOMP_RET } from "./constants.ts";

/** Highest system-call number that a profile names, by the kernel's architecture (AUDIT_ARCH_*). */
export interface HighestCalls {
  readonly auditArch: number;
  readonly native: number | undefined;
  /** On x86-64, of its x32 ABI: numbers with bit 30. */
  readonly x32: number | undefined;
}

const LD_ABS = 0x20;
const JEQ = 0x15;
const JGT = 0x25;
const JGE = 0x35;
const RET = 0x06;
/** Offsets in struct seccomp_data. */
const NR = 0;
const ARCH = 4;
export const X32_BIT = 0x4000_0000;
export const AUDIT_ARCH_X86_64 = 0xc000_003e;

interface Instruction {
  readonly code: number;
  readonly jt: number;
  readonly jf: number;
  readonly k: number;
}

/** The instructions, to be put in front of a filter that begins by loading what it needs (libseccomp's do). */
export function enosysPrologue(highest: readonly HighestCalls[]): Buffer {
  const sizes = highest.map((one) => blockFor(one, 0).length);
  const program: Instruction[] = [instruction(LD_ABS, ARCH)];
  for (const [index, one] of highest.entries()) {
    const after = sizes.slice(index + 1).reduce((sum, size) => sum + size, 0);
    program.push(...blockFor(one, after));
  }
  return encode(program);
}

/** One architecture: `after` is how many instructions lie between this block and the filter. */
function blockFor({ auditArch, native, x32 }: HighestCalls, after: number): Instruction[] {
  const isX86 = auditArch === AUDIT_ARCH_X86_64;
  const checks: ((left: number) => Instruction)[] = [];
  if (isX86) {
    // An x32 call is looked at by the second check, or left to the filter where the profile has no x32.
    checks.push((left) => instruction(JGE, X32_BIT, x32 === undefined ? left + after : 1, 0));
  }
  // A profile without a call of this architecture says nothing about what is newer.
  checks.push((left) =>
    native === undefined
      ? instruction(JGE, 0, left + after, left + after)
      : instruction(JGT, native, left - 1, left + after),
  );
  if (x32 !== undefined) {
    checks.push(
      (left) => instruction(JEQ, 0xffff_ffff, left + after, 0),
      (left) => instruction(JGT, x32, left - 1, left + after),
    );
  }
  const size = checks.length + 3;
  return [
    instruction(JEQ, auditArch, 0, size - 1),
    instruction(LD_ABS, NR),
    ...checks.map((make, index) => make(checks.length - index)),
    instruction(RET, SECCOMP_RET.ERRNO | ENOSYS),
  ];
}

function instruction(code: number, k: number, jt = 0, jf = 0): Instruction {
  return { code, jt, jf, k: k >>> 0 };
}

function encode(program: readonly Instruction[]): Buffer {
  const bytes = Buffer.alloc(program.length * 8);
  for (const [index, { code, jt, jf, k }] of program.entries()) {
    bytes.writeUInt16LE(code, index * 8);
    bytes.writeUInt8(jt, index * 8 + 2);
    bytes.writeUInt8(jf, index * 8 + 3);
    bytes.writeUInt32LE(k, index * 8 + 4);
  }
  return bytes;
}
