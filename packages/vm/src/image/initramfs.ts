/** The guest's user space: bosun as its init, and the modules that its devices need. Nothing else. */
import type { CpioEntry } from "./cpio.ts";
import type { GuestModule } from "./modules.ts";

export interface GuestTree {
  /** The binary. */
  readonly bosun: Uint8Array;
  readonly modules: readonly GuestModule[];
  /** Loaded where the kernel's command line names a root for dm-verity. */
  readonly verity?: readonly GuestModule[];
  /** Below /lib/modules. */
  readonly release: string;
  /** Where the kernel looks for it: "init" in an initramfs, "sbin/init" in a root file system. */
  readonly init: "init" | "sbin/init";
  /** Kata's, which becomes PID 1 in bosun's place (berth.agent= on the kernel's command line). */
  readonly agent?: Uint8Array | undefined;
  /** Beside what every guest has. */
  readonly more?: readonly CpioEntry[];
}

/** In the guest. */
export const AGENT_PATH = "/usr/bin/kata-agent";

/** What bosun's `guest` loads, a path a line, before it does anything else. */
const MODULE_LIST = "etc/berth/modules";
const CONSOLE = [5, 1] as const;
const NULL = [1, 3] as const;

export function guestEntries({ bosun, modules, verity = [], release, init, agent, more = [] }: GuestTree): CpioEntry[] {
  const place = ({ path }: GuestModule): string => `lib/modules/${release}/${path}`;
  const files = new Map([...modules, ...verity].map((one) => [place(one), one.data]));
  const list = (some: readonly GuestModule[]): Buffer => Buffer.from(some.map((one) => `/${place(one)}\n`).join(""));
  const own: CpioEntry[] = [
    { path: init, kind: "file", data: bosun, mode: 0o755 },
    ...(agent ? [{ path: AGENT_PATH.slice(1), kind: "file", data: agent, mode: 0o755 } as const] : []),
    { path: MODULE_LIST, kind: "file", data: list(modules) },
    ...(verity.length > 0 ? [{ path: `${MODULE_LIST}.verity`, kind: "file", data: list(verity) } as const] : []),
    // The kernel opens it for init's output before devtmpfs is mounted.
    { path: "dev/console", kind: "character", mode: 0o600, device: CONSOLE },
    { path: "dev/null", kind: "character", mode: 0o666, device: NULL },
  ];
  const mountPoints = ["proc", "sys", "run", "tmp"];
  const all = [...own, ...[...files].map(([path, data]): CpioEntry => ({ path, kind: "file", data })), ...more];
  return [...directoriesOf([...all.map(({ path }) => path), ...mountPoints.map((name) => `${name}/.`)]), ...all];
}

/** Parents first. */
function directoriesOf(paths: readonly string[]): CpioEntry[] {
  const found = new Set<string>();
  for (const path of paths) {
    const parts = path.split("/").slice(0, -1);
    for (let length = 1; length <= parts.length; length++) found.add(parts.slice(0, length).join("/"));
  }
  return [...found].sort().map((path) => ({ path, kind: "directory" }));
}
