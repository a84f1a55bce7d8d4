/** A profile into a filter, by libseccomp: pure but for the library. Runs in the worker. */
import type { oci } from "@berth/spec";
import {
  actionNumber,
  COMPARISONS,
  ENOSYS,
  filterFlags,
  INSTRUCTION_SIZE,
  MOST_INSTRUCTIONS,
  SeccompError,
} from "./constants.ts";
import { AUDIT_ARCH_X86_64, enosysPrologue, type HighestCalls } from "./enosys.ts";
import type { Comparison, Filter, Library } from "./libseccomp.ts";

export interface BuiltFilter {
  readonly flags: bigint;
  /** An array of struct sock_filter. */
  readonly filter: Uint8Array;
  /** Names that were skipped because this machine's libseccomp does not know them. */
  readonly warnings: readonly string[];
}

/** libseccomp's token of x32, which is no AUDIT_ARCH: the kernel shows its calls as x86-64's with bit 30. */
const X32_TOKEN = 0x4000_003e;
/** Calls that take the place of seccomp's default where a tracer or log is to decide: newer calls are its business too. */
const PERMISSIVE = new Set<string>(["SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_TRACE"]);

/** `scratch` is the path of a file that may be made and is removed. Throws SeccompError. */
export function buildFilter(profile: oci.LinuxSeccomp, library: Library, scratch: string): BuiltFilter {
  const flags = filterFlags(profile.flags);
  checkNotify(profile);
  const defaultAction = actionNumber(profile.defaultAction, profile.defaultErrnoRet, "defaultAction");
  using filter = library.filter(defaultAction);
  const architectures = addArchitectures(profile, library, filter);
  const unknown = new Set<string>();
  for (const [index, rule] of (profile.syscalls ?? []).entries()) {
    addRule(rule, `syscalls[${index}]`, defaultAction, library, filter, unknown);
  }
  const compiled = filter.export(scratch);
  const prologue = needsPrologue(profile)
    ? enosysPrologue(highestCalls(profile, architectures, library))
    : Buffer.alloc(0);
  const whole = Buffer.concat([prologue, compiled]);
  if (whole.length / INSTRUCTION_SIZE > MOST_INSTRUCTIONS) {
    throw new SeccompError(
      "syscalls",
      `makes a filter of ${whole.length / INSTRUCTION_SIZE} instructions; the kernel takes ${MOST_INSTRUCTIONS}`,
    );
  }
  const warnings =
    unknown.size === 0
      ? []
      : [`seccomp: libseccomp ${library.version.library} does not know ${[...unknown].join(", ")}: skipped`];
  return { flags, filter: whole, warnings };
}

/** Who hands the listener over makes system calls under the filter already; nobody would answer for them yet. */
function checkNotify(profile: oci.LinuxSeccomp): void {
  if (profile.defaultAction === "SCMP_ACT_NOTIFY")
    throw new SeccompError(
      "defaultAction",
      "SCMP_ACT_NOTIFY cannot be the default: the listener could not be handed over",
    );
  for (const [index, rule] of (profile.syscalls ?? []).entries()) {
    if (rule.action === "SCMP_ACT_NOTIFY" && rule.names.includes("write"))
      throw new SeccompError(
        `syscalls[${index}]`,
        "SCMP_ACT_NOTIFY cannot be used for the write syscall: it hands the listener over",
      );
  }
}

/**
 * libseccomp's tokens, the machine's own first. Calls of any other architecture kill the thread, whatever the default: else
 * a profile that only forbids could be walked around by a call of another ABI.
 */
function addArchitectures(profile: oci.LinuxSeccomp, library: Library, filter: Filter): number[] {
  const tokens = [library.nativeArchitecture()];
  for (const [index, name] of (profile.architectures ?? []).entries()) {
    const token = library.architecture(name);
    if (token === undefined)
      throw new SeccompError(
        `architectures[${index}]`,
        `${JSON.stringify(name)} is not an architecture that libseccomp ${library.version.library} knows`,
      );
    if (tokens.includes(token)) continue;
    filter.addArchitecture(token);
    tokens.push(token);
  }
  return tokens;
}

function addRule(
  rule: oci.SeccompRule,
  field: string,
  defaultAction: number,
  library: Library,
  filter: Filter,
  unknown: Set<string>,
): void {
  const action = actionNumber(rule.action, rule.errnoRet, `${field}.action`);
  // The default says the same, and libseccomp refuses such a rule.
  if (action === defaultAction) return;
  const comparisons = (rule.args ?? []).map((argument, index) => comparison(argument, `${field}.args[${index}]`));
  for (const name of rule.names) {
    const call = library.systemCall(name);
    if (call === undefined) unknown.add(name);
    else for (const group of groups(comparisons)) filter.rule(action, call, group, `${field} (${name})`);
  }
}

/** libseccomp takes one condition an argument: where a rule has two for one, each condition becomes a rule (as in runc). */
function groups(comparisons: readonly Comparison[]): (readonly Comparison[])[] {
  const distinct = new Set(comparisons.map(({ arg }) => arg));
  return distinct.size === comparisons.length ? [comparisons] : comparisons.map((one) => [one]);
}

function comparison(argument: oci.SeccompArgument, field: string): Comparison {
  const op = Object.hasOwn(COMPARISONS, argument.op) ? COMPARISONS[argument.op] : undefined;
  if (op === undefined) throw new SeccompError(`${field}.op`, `${JSON.stringify(argument.op)} is not a comparison`);
  if (!Number.isInteger(argument.index) || argument.index < 0 || argument.index > 5)
    throw new SeccompError(`${field}.index`, `${argument.index} is not between 0 and 5`);
  return {
    arg: argument.index,
    op,
    datum_a: BigInt.asUintN(64, BigInt(argument.value)),
    datum_b: BigInt.asUintN(64, BigInt(argument.valueTwo ?? 0)),
  };
}

function needsPrologue(profile: oci.LinuxSeccomp): boolean {
  return (
    !PERMISSIVE.has(profile.defaultAction) &&
    !(profile.defaultAction === "SCMP_ACT_ERRNO" && profile.defaultErrnoRet === ENOSYS)
  );
}

function highestCalls(profile: oci.LinuxSeccomp, tokens: readonly number[], library: Library): HighestCalls[] {
  const names = new Set((profile.syscalls ?? []).flatMap((rule) => rule.names));
  const highest = (token: number): number | undefined => {
    let last: number | undefined;
    for (const name of names) {
      const number = library.systemCallOn(token, name);
      if (number !== undefined && (last === undefined || number > last)) last = number;
    }
    return last;
  };
  return tokens
    .filter((token) => token !== X32_TOKEN)
    .map((token) => ({
      auditArch: token,
      native: highest(token),
      x32: token === AUDIT_ARCH_X86_64 && tokens.includes(X32_TOKEN) ? highest(X32_TOKEN) : undefined,
    }));
}
