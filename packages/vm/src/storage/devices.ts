/** Devices of a container's config: block devices of the node become disks of the machine; others are the guest's own, by their numbers. */
import { readFile } from "node:fs/promises";
import type { oci } from "@berth/spec";
import { VmError } from "../errors.ts";
import type { PodMachine } from "../sandbox/machine.ts";
import { useDisk } from "./disks.ts";

type Linux = Pick<oci.Linux, "devices" | "resources">;
type Rule = oci.LinuxDeviceCgroup;

interface Numbers {
  readonly major: number;
  readonly minor: number;
}

/**
 * The same with the guest's devices in it. A container that may use every device (a privileged one) gets all of the guest's in the place of the
 * node's. Rejects with VmError Unsupported naming the device.
 */
export async function plugDevices(machine: PodMachine, container: string, linux: Linux): Promise<Linux> {
  const devices = linux.devices ?? [];
  const rules = linux.resources?.devices ?? [];
  if (devices.length === 0) return linux;
  if (rules.some(isEverything)) return { ...linux, devices: await guestDevices(machine) };
  const own = new Set((await guestDevices(machine)).map(({ type, ...device }) => keyOf(type, device)));
  const numbers = new Map<string, Numbers>();
  const replaced: oci.LinuxDevice[] = [];
  for (const device of devices) {
    const key = keyOf(device.type, device);
    if (device.type === "b") {
      const plugged = numbers.get(key) ?? (await plug(machine, container, device, accessOf(rules, device)));
      numbers.set(key, plugged);
      replaced.push({ ...device, ...plugged });
    } else if (device.type === "p" || own.has(key)) {
      replaced.push(device);
    } else {
      throw new VmError(
        "Unsupported",
        `device ${device.path} (${device.type} ${device.major}:${device.minor}): the guest's kernel has no such device, and a character device of the node cannot be given to a machine`,
      );
    }
  }
  const renumbered = rules.map((rule): Rule => ({ ...rule, ...numbers.get(keyOf(rule.type ?? "", rule)) }));
  return { ...linux, devices: replaced, resources: { ...linux.resources, devices: renumbered } };
}

const keyOf = (type: string, { major, minor }: Pick<Rule, "major" | "minor">): string => `${type}${major}:${minor}`;

const isEverything = ({ allow, type, major, minor, access }: Rule): boolean =>
  allow && (type === undefined || type === "a") && major === undefined && minor === undefined && access === "rwm";

const accessOf = (rules: readonly Rule[], { type, major, minor }: oci.LinuxDevice): string =>
  rules.findLast((rule) => rule.type === type && rule.major === major && rule.minor === minor)?.access ?? "rwm";

async function plug(machine: PodMachine, container: string, device: oci.LinuxDevice, access: string): Promise<Numbers> {
  const name = await nodeName(device);
  const disk = {
    id: `d${device.major}-${device.minor}`,
    path: `/dev/${name}`,
    readonly: !access.includes("w"),
  };
  const { device: path } = await useDisk(machine, disk, container);
  const outputs = await machine.guest.hand.run({
    orders: [{ order: "read_file", args: { path: `/sys/class/block/${path.slice("/dev/".length)}/dev`, max: 64 } }],
  });
  const [major, minor] = Buffer.from(outputs.get(0) ?? [])
    .toString()
    .trim()
    .split(":")
    .map(Number) as [number, number];
  return { major, minor };
}

/** As the node's kernel calls it: its path in the container says nothing. */
async function nodeName({ path, major, minor }: oci.LinuxDevice): Promise<string> {
  const file = `/sys/dev/block/${major}:${minor}/uevent`;
  const text = await readFile(file, "utf8").catch((error: unknown) => {
    throw new VmError("Missing", `device ${path}: the node has no block device ${major}:${minor}`, { cause: error });
  });
  const name = /^DEVNAME=(.+)$/m.exec(text)?.[1];
  if (name === undefined) throw new VmError("Missing", `device ${path}: ${file} does not say its name`);
  return name;
}

const ALL = ["/sys/dev/char/*/uevent", "/sys/dev/block/*/uevent"] as const;
const MAX_UEVENT = 4096;
const DEFAULT_MODE = 0o600;

/** All that the guest's kernel has a name for. */
async function guestDevices({ guest: { hand } }: PodMachine): Promise<oci.LinuxDevice[]> {
  const lists = await hand.run({
    orders: ALL.map((pattern) => ({ order: "find", args: { pattern, timeoutMs: 0 } }) as const),
  });
  const files = [0, 1].flatMap((index) =>
    Buffer.from(lists.get(index) ?? [])
      .toString()
      .split("\0")
      .filter((path) => path !== ""),
  );
  const texts = await hand.run({
    orders: files.map((path) => ({ order: "read_file", args: { path, max: MAX_UEVENT } }) as const),
  });
  return files.flatMap((file, index): oci.LinuxDevice[] => {
    const text = Buffer.from(texts.get(index) ?? []).toString();
    const value = (name: string): string | undefined => new RegExp(`^${name}=(.+)$`, "m").exec(text)?.[1];
    const name = value("DEVNAME");
    if (name === undefined || OWN.test(name)) return [];
    return [
      {
        path: `/dev/${name}`,
        type: file.startsWith("/sys/dev/char/") ? "c" : "b",
        major: Number(value("MAJOR")),
        minor: Number(value("MINOR")),
        fileMode: Number.parseInt(value("DEVMODE") ?? "", 8) || DEFAULT_MODE,
        uid: Number(value("DEVUID") ?? 0),
        gid: Number(value("DEVGID") ?? 0),
      },
    ];
  });
}

/** Each container has this as its own. */
const OWN = /^console$/;
