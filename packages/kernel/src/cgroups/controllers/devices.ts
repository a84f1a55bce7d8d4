/**
 * devices: which device nodes may be opened or made (devices.rst of cgroup-v1). cgroup v2 has no files for it: a BPF
 * program of type BPF_PROG_TYPE_CGROUP_DEVICE is attached instead.
 */
import type { oci } from "@berth/spec";
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

/** No rules: the parent cgroup's stay in force. */
export function devicesV1(rules: readonly oci.LinuxDeviceCgroup[], directory: string): Settings {
  if (rules.length === 0) return settings([]);
  // Once everything is allowed, further "allow" lines would only be noise; a later "deny" still counts.
  const always = isAllowed(rules.at(-1)) ? [] : ALWAYS;
  return settings(
    [...rules, ...always].map((rule, index) => {
      const field = index < rules.length ? `${FIELD}[${index}]` : `${FIELD} (default devices)`;
      return writeOrder(directory, rule.allow ? "devices.allow" : "devices.deny", deviceRule(rule, field), field);
    }),
  );
}

export function devicesV2(rules: readonly oci.LinuxDeviceCgroup[]): Settings {
  const restricts = rules.some((rule) => !rule.allow);
  return settings(
    [],
    restricts
      ? [
          `${FIELD}: not applied: device rules on cgroup v2 need a BPF program, which this version of berth does not load; the container may open any device node it has`,
        ]
      : [],
  );
}

/** "c 1:3 rwm"; "a" for everything, which the kernel takes only whole. */
function deviceRule(rule: oci.LinuxDeviceCgroup, field: string): string {
  const type = rule.type ?? "a";
  const access = rule.access || "rwm";
  if (!/^[rwm]+$/.test(access))
    throw new ResourceError(`${field}.access`, `${JSON.stringify(access)} has letters other than r, w and m`);
  const number = (value: number | undefined) => (value === undefined || value < 0 ? "*" : String(value));
  if (type === "a") return "a";
  if (type !== "c" && type !== "b")
    throw new ResourceError(`${field}.type`, `${JSON.stringify(type)} is not "a", "b" or "c"`);
  return `${type} ${number(rule.major)}:${number(rule.minor)} ${access}`;
}

function isAllowed(rule: oci.LinuxDeviceCgroup | undefined): boolean {
  return rule !== undefined && rule.allow && (rule.type ?? "a") === "a";
}
