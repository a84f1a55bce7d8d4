/**
 * devices: which device nodes may be opened or made (devices.rst of cgroup-v1). cgroup v2 has no files for it: a BPF
 * program of type BPF_PROG_TYPE_CGROUP_DEVICE is attached instead.
 */
import type { oci } from "@berth/spec";
import { deviceAccess, deviceProgram, type DeviceRule } from "../device-program.ts";
import { ResourceError, settings, writeOrder, type Settings } from "../orders.ts";

const FIELD = "linux.resources.devices";

/** What a container may always do, whatever its rules say: make nodes, and use those of the specification's default list. */
const ALWAYS: readonly oci.LinuxDeviceCgroup[] = [
  { allow: true, type: "c", access: "m" },
  { allow: true, type: "b", access: "m" },
  { allow: true, type: "c", major: 1, minor: 3, access: "rwm" },
  { allow: true, type: "c", major: 1, minor: 5, access: "rwm" },
  { allow: true, type: "c", major: 1, minor: 7, access: "rwm" },
  { allow: true, type: "c", major: 1, minor: 8, access: "rwm" },
  { allow: true, type: "c", major: 1, minor: 9, access: "rwm" },
  { allow: true, type: "c", major: 5, minor: 0, access: "rwm" },
  { allow: true, type: "c", major: 5, minor: 2, access: "rwm" },
  { allow: true, type: "c", major: 136, access: "rwm" },
];

/** With what every container may do behind them; none stay none. */
export function effectiveRules(rules: readonly oci.LinuxDeviceCgroup[]): readonly oci.LinuxDeviceCgroup[] {
  // Once everything is allowed, further "allow" lines would only be noise; a later "deny" still counts.
  return rules.length === 0 || isAllowed(rules.at(-1)) ? rules : [...rules, ...ALWAYS];
}

/** No rules: the parent cgroup's stay in force. */
export function devicesV1(rules: readonly oci.LinuxDeviceCgroup[], directory: string): Settings {
  return settings(
    effectiveRules(rules).map((rule, index) => {
      const field = index < rules.length ? `${FIELD}[${index}]` : `${FIELD} (default devices)`;
      return writeOrder(directory, rule.allow ? "devices.allow" : "devices.deny", deviceRule(rule, field), field);
    }),
    strangeLetters(rules),
  );
}

/**
 * One program for all rules. With none that forbids, it allows everything: what a program of before had forbidden is to end
 * with it.
 */
export function devicesV2(rules: readonly oci.LinuxDeviceCgroup[], directory: string): Settings {
  if (rules.length === 0) return settings([]);
  const list = effectiveRules(rules).map((rule, index) =>
    checkedRule(rule, index < rules.length ? `${FIELD}[${index}]` : FIELD),
  );
  const access = deviceAccess(list);
  const any = access.allow && access.exceptions.length === 0 ? 1 : 0;
  return settings(
    [
      {
        order: "cgroup_devices",
        args: { path: directory, program: deviceProgram(access), any },
        because: FIELD,
      },
    ],
    strangeLetters(rules),
  );
}

/** As other runtimes have it, a letter that means nothing is none; but it is told. */
function strangeLetters(rules: readonly oci.LinuxDeviceCgroup[]): string[] {
  return rules.flatMap(({ access = "" }, index) => {
    const strange = access.replaceAll(/[rwm]/g, "");
    return strange === ""
      ? []
      : [`${FIELD}[${index}].access: ${JSON.stringify(strange)} is none of r, w and m: ignored`];
  });
}

/** Throws ResourceError. */
function checkedRule(rule: oci.LinuxDeviceCgroup, field: string): DeviceRule {
  const type = rule.type || "a";
  const access = [...(rule.access || "rwm")].filter((letter) => "rwm".includes(letter)).join("");
  if (access === "") throw new ResourceError(`${field}.access`, `${JSON.stringify(rule.access)} is none of r, w and m`);
  if (type !== "a" && type !== "c" && type !== "b")
    throw new ResourceError(`${field}.type`, `${JSON.stringify(type)} is not "a", "b" or "c"`);
  const number = (value: number | undefined) => (value === undefined || value < 0 ? undefined : value);
  return { allow: rule.allow, type, major: number(rule.major), minor: number(rule.minor), access };
}

/** "c 1:3 rwm"; "a" for everything, which the kernel takes only whole. */
function deviceRule(rule: oci.LinuxDeviceCgroup, field: string): string {
  const { type, major, minor, access } = checkedRule(rule, field);
  return type === "a" ? "a" : `${type} ${major ?? "*"}:${minor ?? "*"} ${access}`;
}

function isAllowed(rule: oci.LinuxDeviceCgroup | undefined): boolean {
  return rule !== undefined && rule.allow && (rule.type || "a") === "a";
}
