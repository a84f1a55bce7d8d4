/** Orders in words: what `berth plan` prints and what errors begin with. Numbers that have names get them. */
import { capabilitiesOfMask } from "../capabilities.ts";
import { listOfMask } from "../cpulist.ts";
import { MEMORY_POLICIES, MEMORY_POLICY_FLAG_MASK, MEMORY_POLICY_FLAGS } from "../mempolicy.ts";
import { RLIM_INFINITY, RLIMITS } from "../rlimits.ts";
import type { FieldInput } from "./codec.ts";
import type { Order, Plan } from "./plan.ts";
import { NO_SLOT, ORDERS, type OrderName } from "./table.ts";

export interface PlanLine {
  /** Before `clone` ("stage", in the host's namespaces), or after it ("container"). */
  readonly where: "stage" | "container";
  readonly order: OrderName;
  readonly words: string;
  /** The field of the configuration that asked for it, or in a few words why; "" where nobody said. */
  readonly because: string;
}

/** A plan as `berth plan` shows it, line by line. */
export function describePlan(plan: Plan): PlanLine[] {
  let where: PlanLine["where"] = "stage";
  return plan.orders.map((order) => {
    const line = { where, order: order.order, words: orderWords(order), because: order.because ?? "" };
    if (order.order === "clone") where = "container";
    return line;
  });
}

/** One order, as in "mount proc at /proc". */
export function orderWords(order: Order): string {
  const args = order.args as Readonly<Record<string, FieldInput>>;
  const words = ORDERS[order.order].words.replaceAll(/\{(\w+)\}/g, (_match, field: string) => {
    const value = args[field];
    return value === undefined ? "" : fieldWords(order.order, field, value);
  });
  return [order.order === "clone" && order.args.flags === 0n ? "clone" : tidy(words), ...details(order)].join(" ");
}

/** Takes away what an empty field left behind. */
function tidy(words: string): string {
  return words
    .replaceAll(/ \(\)| \(groups \)/g, "")
    .replaceAll(/\s+/g, " ")
    .trim();
}

const CLONE_NAMES: readonly (readonly [bigint, string])[] = [
  [0x80n, "CLONE_NEWTIME"],
  [0x20000n, "CLONE_NEWNS"],
  [0x2000000n, "CLONE_NEWCGROUP"],
  [0x4000000n, "CLONE_NEWUTS"],
  [0x8000000n, "CLONE_NEWIPC"],
  [0x10000000n, "CLONE_NEWUSER"],
  [0x20000000n, "CLONE_NEWPID"],
  [0x40000000n, "CLONE_NEWNET"],
];
const MS_NAMES: readonly (readonly [bigint, string])[] = [
  [0x1n, "MS_RDONLY"],
  [0x2n, "MS_NOSUID"],
  [0x4n, "MS_NODEV"],
  [0x8n, "MS_NOEXEC"],
  [0x10n, "MS_SYNCHRONOUS"],
  [0x20n, "MS_REMOUNT"],
  [0x40n, "MS_MANDLOCK"],
  [0x80n, "MS_DIRSYNC"],
  [0x100n, "MS_NOSYMFOLLOW"],
  [0x400n, "MS_NOATIME"],
  [0x800n, "MS_NODIRATIME"],
  [0x1000n, "MS_BIND"],
  [0x2000n, "MS_MOVE"],
  [0x4000n, "MS_REC"],
  [0x8000n, "MS_SILENT"],
  [0x20000n, "MS_UNBINDABLE"],
  [0x40000n, "MS_PRIVATE"],
  [0x80000n, "MS_SLAVE"],
  [0x100000n, "MS_SHARED"],
  [0x200000n, "MS_RELATIME"],
  [0x1000000n, "MS_STRICTATIME"],
];
const ATTR_NAMES: readonly (readonly [bigint, string])[] = [
  [0x1n, "MOUNT_ATTR_RDONLY"],
  [0x2n, "MOUNT_ATTR_NOSUID"],
  [0x4n, "MOUNT_ATTR_NODEV"],
  [0x8n, "MOUNT_ATTR_NOEXEC"],
  [0x70n, "MOUNT_ATTR__ATIME"],
  [0x10n, "MOUNT_ATTR_NOATIME"],
  [0x20n, "MOUNT_ATTR_STRICTATIME"],
  [0x80n, "MOUNT_ATTR_NODIRATIME"],
  [0x100000n, "MOUNT_ATTR_IDMAP"],
  [0x200000n, "MOUNT_ATTR_NOSYMFOLLOW"],
];
const UMOUNT_NAMES: readonly (readonly [bigint, string])[] = [
  [1n, "MNT_FORCE"],
  [2n, "MNT_DETACH"],
  [4n, "MNT_EXPIRE"],
  [8n, "UMOUNT_NOFOLLOW"],
];
const SECCOMP_NAMES: readonly (readonly [bigint, string])[] = [
  [1n, "SECCOMP_FILTER_FLAG_TSYNC"],
  [2n, "SECCOMP_FILTER_FLAG_LOG"],
  [4n, "SECCOMP_FILTER_FLAG_SPEC_ALLOW"],
  [8n, "SECCOMP_FILTER_FLAG_NEW_LISTENER"],
  [32n, "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"],
];
const RLIMIT_NAMES: ReadonlyMap<number, string> = new Map(
  Object.entries(RLIMITS).map(([name, number]) => [number, name]),
);

/** Fields whose numbers mean something, by order. */
const FLAG_FIELDS: Readonly<
  Partial<Record<OrderName, Readonly<Record<string, readonly (readonly [bigint, string])[]>>>>
> = {
  clone: { flags: CLONE_NAMES },
  unshare: { flags: CLONE_NAMES },
  setns: { type: CLONE_NAMES },
  mount: { flags: MS_NAMES },
  mount_attr: { set: ATTR_NAMES, clear: ATTR_NAMES, propagation: MS_NAMES },
  mount_attr_locked: { set: ATTR_NAMES, clear: ATTR_NAMES, refuse: ATTR_NAMES },
  fs_mount: { attrs: ATTR_NAMES },
  tmpfs_like: { attrs: ATTR_NAMES },
  unmount: { flags: UMOUNT_NAMES },
  seccomp: { flags: SECCOMP_NAMES },
};
const CAPABILITY_FIELDS = new Set([
  "bounding.mask",
  "caps.effective",
  "caps.permitted",
  "caps.inheritable",
  "caps.ambient",
]);
const CPU_FIELDS = new Set(["affinity.mask", "mempolicy.nodes"]);
const POLICY_NAMES: ReadonlyMap<number, string> = new Map(
  Object.entries(MEMORY_POLICIES).map(([name, number]) => [number, name]),
);
const LONGEST_TEXT = 200;

function fieldWords(order: OrderName, field: string, value: FieldInput): string {
  const names = FLAG_FIELDS[order]?.[field];
  if (names !== undefined && typeof value === "bigint") return flagWords(value, names);
  if (CAPABILITY_FIELDS.has(`${order}.${field}`) && typeof value === "bigint") return capabilityWords(value);
  if (order === "rlimit" && field === "resource") return RLIMIT_NAMES.get(Number(value)) ?? String(value);
  if (order === "rlimit" && value === RLIM_INFINITY) return "unlimited";
  if (order === "mempolicy" && field === "mode") return policyWords(Number(value));
  if (value instanceof Uint8Array && CPU_FIELDS.has(`${order}.${field}`)) return maskWords(value);
  if (field === "mask" || field === "mode") return Number(value).toString(8).padStart(4, "0");
  return plainWords(value, field);
}

/** "A|B", with what has no name in hexadecimal; "0" for none. A field of several bits wins over its parts. */
export function flagWords(value: bigint, names: readonly (readonly [bigint, string])[]): string {
  const words: string[] = [];
  let left = value;
  for (const [bit, name] of names) {
    if ((left & bit) !== bit) continue;
    words.push(name);
    left &= ~bit;
  }
  if (left !== 0n) words.push(`0x${left.toString(16)}`);
  return words.length === 0 ? "0" : words.join("|");
}

/** "0,2-5"; "all" for an empty mask. */
function maskWords(mask: Uint8Array): string {
  const list = listOfMask(mask);
  return list === "" ? "all" : list;
}

function policyWords(value: number): string {
  const base = POLICY_NAMES.get(value & ~MEMORY_POLICY_FLAG_MASK) ?? String(value & ~MEMORY_POLICY_FLAG_MASK);
  const flags = Object.entries(MEMORY_POLICY_FLAGS).flatMap(([name, bit]) => ((value & bit) === 0 ? [] : [name]));
  return [base, ...flags].join("|");
}

function capabilityWords(mask: bigint): string {
  const names = capabilitiesOfMask(mask);
  return names.length === 0 ? "none" : names.join(",");
}

function plainWords(value: FieldInput, field: string): string {
  if (typeof value === "string") return value;
  if (typeof value === "number") return value === NO_SLOT ? "none" : String(value);
  if (typeof value === "bigint") return String(value);
  if (value instanceof Uint8Array) return bytesWords(value);
  const items = value.map((item) =>
    typeof item === "string" ? item : item instanceof Uint8Array ? bytesWords(item) : String(item),
  );
  return field === "argv" ? items.map(quoted).join(" ") : items.join(field === "files" ? " and " : ",");
}

function bytesWords(bytes: Uint8Array): string {
  const text = Buffer.from(bytes).toString("utf8");
  const short = text.length > LONGEST_TEXT ? `${text.slice(0, LONGEST_TEXT)}…` : text;
  return JSON.stringify(short);
}

function quoted(argument: string): string {
  return /^[\w@%+=:,./-]+$/.test(argument) ? argument : `'${argument.replaceAll("'", String.raw`'\''`)}'`;
}

/** What the table's words leave out and a reader would ask for. */
function details(order: Order): string[] {
  switch (order.order) {
    case "fs_mount":
    case "tmpfs_like":
      return order.args.attrs === 0n ? [] : [flagWords(order.args.attrs, ATTR_NAMES)];
    case "mount":
      return order.args.flags === 0n ? [] : [flagWords(order.args.flags, MS_NAMES)];
    case "clone_in":
    case "open_tree":
    case "mount_attr":
      return order.args.recursive === 0 ? [] : ["recursively"];
    case "clone":
      return [
        ...(order.args.cgroupSlot === NO_SLOT ? [] : [`into the cgroup of fd ${order.args.cgroupSlot}`]),
        ...(order.args.uidMap === ""
          ? []
          : [`with uids ${plainWords(order.args.uidMap, "uidMap").trim().replaceAll("\n", "; ")}`]),
      ];
    case "cgroup_devices":
      return [`(${order.args.program.byteLength / 8} instructions)`];
    case "seccomp":
      return [`(${order.args.filter.byteLength / 8} instructions, ${flagWords(order.args.flags, SECCOMP_NAMES)})`];
    case "mkdev":
      return [`mode ${(order.args.mode & 0o7777).toString(8).padStart(4, "0")}`];
    default:
      return [];
  }
}
