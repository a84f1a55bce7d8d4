/** Device rules as a unit's DevicePolicy and DeviceAllow (systemd.resource-control(5)). */
import type { oci } from "@berth/spec";
import { effectiveRules } from "../cgroups/controllers/devices.ts";
import { deviceAccess, type DeviceException, type DeviceRule } from "../cgroups/device-program.ts";
import type { UnitProperty } from "./manager.ts";

const LETTERS = [
  [2, "r"],
  [4, "w"],
  [1, "m"],
] as const;

/** Of the text of /proc/devices: what systemd calls all devices of a major number ("char-pts"). */
function groupName({ type, major }: DeviceException, devices: string): string | undefined {
  const [characters = "", blocks = ""] = devices.split("Block devices:");
  const lines = (type === "c" ? characters : blocks).split("\n");
  const name = lines.map((line) => /^\s*(\d+)\s+(\S+)/.exec(line)).find((match) => Number(match?.[1]) === major)?.[2];
  return name === undefined ? undefined : `${type === "c" ? "char" : "block"}-${name}`;
}

/** What cannot be said to systemd (all minors of a driver that the machine does not have) nobody can open either. */
function allowed(exception: DeviceException, devices: string): (readonly [string, string])[] {
  const { type, major, minor, access } = exception;
  const letters = LETTERS.filter(([bit]) => (access & bit) !== 0)
    .map(([, letter]) => letter)
    .join("");
  const kind = type === "c" ? "char" : "block";
  if (major === undefined) return [[`${kind}-*`, letters]];
  if (minor !== undefined) return [[`/dev/${kind}/${major}:${minor}`, letters]];
  const group = groupName(exception, devices);
  return group === undefined ? [] : [[group, letters]];
}

/** No rules: systemd is not told anything, and leaves the cgroup's devices alone. */
export function unitDevices(rules: readonly oci.LinuxDeviceCgroup[], devices: string): UnitProperty[] {
  if (rules.length === 0) return [];
  const number = (value: number | undefined) => (value === undefined || value < 0 ? undefined : value);
  const access = deviceAccess(
    effectiveRules(rules).map((rule): DeviceRule => ({
      allow: rule.allow,
      type: (rule.type || "a") as DeviceRule["type"],
      major: number(rule.major),
      minor: number(rule.minor),
      access: rule.access || "rwm",
    })),
  );
  // systemd knows no exceptions to "everything": then it is left to the cgroup's own rules.
  const policy = access.allow ? "auto" : "strict";
  const list = access.allow ? [] : access.exceptions.flatMap((exception) => allowed(exception, devices));
  return [
    ["DevicePolicy", { signature: "s", value: policy }],
    ["DeviceAllow", { signature: "a(ss)", value: list }],
  ];
}
