/**
 * Device rules as a BPF program for cgroup v2 (bpf(2), BPF_PROG_TYPE_CGROUP_DEVICE). What the rules add up to is what the v1
 * controller makes of them (devices.rst): a default, and a list of exceptions to it.
 */

export interface DeviceRule {
  readonly allow: boolean;
  readonly type: "a" | "b" | "c";
  /** Undefined: any. */
  readonly major: number | undefined;
  readonly minor: number | undefined;
  /** Letters of "rwm". */
  readonly access: string;
}

export interface DeviceException {
  readonly type: "b" | "c";
  readonly major: number | undefined;
  readonly minor: number | undefined;
  /** BPF_DEVCG_ACC_*. */
  readonly access: number;
}

export interface DeviceAccess {
  /** What holds where no exception matches. */
  readonly allow: boolean;
  readonly exceptions: readonly DeviceException[];
}

const ACCESS: Readonly<Record<string, number>> = { m: 1, r: 2, w: 4 };
const ALL_ACCESS = 7;
const TYPES = { b: 1, c: 2 } as const;

/** A rule of type "a" sets the default and forgets the exceptions; others add to them, or take away from them. */
export function deviceAccess(rules: readonly DeviceRule[]): DeviceAccess {
  // As runc has it on v2; a v1 cgroup begins with what its parent allows.
  let allow = false;
  const exceptions = new Map<string, DeviceException>();
  for (const rule of rules) {
    if (rule.type === "a") {
      allow = rule.allow;
      exceptions.clear();
      continue;
    }
    const key = `${rule.type} ${rule.major ?? "*"}:${rule.minor ?? "*"}`;
    const mask = [...rule.access].reduce((bits, letter) => bits | (ACCESS[letter] ?? 0), 0);
    const before = exceptions.get(key)?.access ?? 0;
    const access = rule.allow === allow ? before & ~mask : before | mask;
    if (access === 0) exceptions.delete(key);
    else exceptions.set(key, { type: rule.type, major: rule.major, minor: rule.minor, access });
  }
  return { allow, exceptions: [...exceptions.values()] };
}

/** Operation codes of eBPF (RFC 9669), 64-bit. */
const LOAD_WORD = 0x61;
const MOVE = 0xbf;
const MOVE_NUMBER = 0xb7;
const AND_NUMBER = 0x57;
const SHIFT_RIGHT_NUMBER = 0x77;
const JUMP_EQUAL_NUMBER = 0x15;
const JUMP_UNEQUAL_NUMBER = 0x55;
const JUMP_UNEQUAL = 0x5d;
const EXIT = 0x95;

interface Instruction {
  readonly code: number;
  readonly to?: number;
  readonly from?: number;
  readonly offset?: number;
  readonly number?: number;
}

/** Registers: 0 the verdict, 1 the context and then scratch, 2 the device's type, 3 the access asked for, 4 and 5 its numbers. */
const [VERDICT, CONTEXT, TYPE, ASKED, MAJOR, MINOR] = [0, 1, 2, 3, 4, 5] as const;
/** Offsets in struct bpf_cgroup_dev_ctx. */
const OFFSETS = { access: 0, major: 4, minor: 8 } as const;

/** An array of struct bpf_insn; the program answers 1 (allowed) or 0. */
export function deviceProgram({ allow, exceptions }: DeviceAccess): Uint8Array {
  const program: Instruction[] = [
    { code: LOAD_WORD, to: TYPE, from: CONTEXT, offset: OFFSETS.access },
    { code: MOVE, to: ASKED, from: TYPE },
    { code: AND_NUMBER, to: TYPE, number: 0xffff },
    { code: SHIFT_RIGHT_NUMBER, to: ASKED, number: 16 },
    { code: LOAD_WORD, to: MAJOR, from: CONTEXT, offset: OFFSETS.major },
    { code: LOAD_WORD, to: MINOR, from: CONTEXT, offset: OFFSETS.minor },
    ...exceptions.flatMap((exception) => exceptionCode(exception, !allow)),
    { code: MOVE_NUMBER, to: VERDICT, number: allow ? 1 : 0 },
    { code: EXIT },
  ];
  return encode(program);
}

/** Allowing takes all of the access that is asked for, forbidding any of it. */
function exceptionCode({ type, major, minor, access }: DeviceException, allows: boolean): Instruction[] {
  const tests: ((next: number) => Instruction)[] = [
    (next) => ({ code: JUMP_UNEQUAL_NUMBER, to: TYPE, offset: next, number: TYPES[type] }),
  ];
  if (access !== ALL_ACCESS) {
    tests.push(
      () => ({ code: MOVE, to: CONTEXT, from: ASKED }),
      () => ({ code: AND_NUMBER, to: CONTEXT, number: access }),
      (next) =>
        allows
          ? { code: JUMP_UNEQUAL, to: CONTEXT, from: ASKED, offset: next }
          : { code: JUMP_EQUAL_NUMBER, to: CONTEXT, offset: next, number: 0 },
    );
  }
  if (major !== undefined)
    tests.push((next) => ({ code: JUMP_UNEQUAL_NUMBER, to: MAJOR, offset: next, number: major }));
  if (minor !== undefined)
    tests.push((next) => ({ code: JUMP_UNEQUAL_NUMBER, to: MINOR, offset: next, number: minor }));
  const verdict: Instruction[] = [{ code: MOVE_NUMBER, to: VERDICT, number: allows ? 1 : 0 }, { code: EXIT }];
  // A jump counts from the instruction after it.
  return [...tests.map((test, index) => test(tests.length - index - 1 + verdict.length)), ...verdict];
}

function encode(program: readonly Instruction[]): Uint8Array {
  const bytes = Buffer.alloc(program.length * 8);
  for (const [index, { code, to = 0, from = 0, offset = 0, number = 0 }] of program.entries()) {
    bytes.writeUInt8(code, index * 8);
    bytes.writeUInt8((from << 4) | to, index * 8 + 1);
    bytes.writeInt16LE(offset, index * 8 + 2);
    bytes.writeInt32LE(number | 0, index * 8 + 4);
  }
  return bytes;
}
