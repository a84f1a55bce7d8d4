/** A guest that has booted: its hand, and what its kernel can do, which plans for its containers are made by. */
import {
  featuresOfVersion,
  type CgroupHierarchies,
  connectHand,
  type Hand,
  type HostFacts,
  O,
  type Order,
  parseKernelVersion,
  parseLimits,
  type Reach,
  reachThrough,
  statusMask,
} from "@berth/kernel";
import { VmError } from "../errors.ts";
import { consolePlace, consoleWords } from "./console.ts";
import { GUEST_SERVE, relaySocket } from "./host.ts";

export interface Guest {
  /** Of bosun's serve in it. */
  readonly hand: Hand;
  /** The way to its sockets: monitors', and "tcp:PORT". */
  readonly reach: Reach;
  readonly facts: HostFacts;
}

export interface GuestOptions {
  /** Milliseconds for the first answer. */
  readonly timeoutMs: number;
  readonly signal?: AbortSignal | undefined;
  /** Where they are known: the guest is not asked. */
  readonly facts?: HostFacts | undefined;
}

/** Waits until the guest answers. Rejects with VmError Guest. */
export async function connectGuest(machine: string, { timeoutMs, signal, facts }: GuestOptions): Promise<Guest> {
  const relay = relaySocket(machine);
  const first = reachThrough(relay, { timeoutMs, signal });
  let hand: Hand;
  try {
    hand = await connectHand(GUEST_SERVE, first);
  } catch (error) {
    signal?.throwIfAborted();
    throw new VmError(
      "Guest",
      `the guest did not answer: ${(error as Error).message}${await consoleWords(machine)}; its console is ${consolePlace(machine)}`,
      { cause: error },
    );
  }
  return {
    hand,
    reach: reachThrough(relay, { timeoutMs: STREAM_MS }),
    facts: facts ?? guestFacts(await guestWords(hand)),
  };
}

/** A guest that has booted and does not open a stream within this hangs. */
const STREAM_MS = 10_000;

const [PROC, SYS] = [0, 1] as const;
const MAX_TEXT = 1 << 16;
const CGROUP2 = "/sys/fs/cgroup";
/** As Linux has them since 4.15. */
const DELEGATED = ["cgroup.procs", "cgroup.subtree_control", "cgroup.threads"];

/** What the files say that facts are made of: a copy's say the same. */
export async function guestWords(hand: Hand): Promise<GuestWords> {
  const files: readonly (readonly [root: number, path: string])[] = [
    [PROC, "/sys/kernel/osrelease"],
    [SYS, "/fs/cgroup/cgroup.controllers"],
    [PROC, "/self/status"],
    [PROC, "/sys/kernel/cap_last_cap"],
    [PROC, "/self/limits"],
    [SYS, "/module/overlay/parameters/index"],
  ];
  const roots: Order[] = [
    { order: "open", args: { slot: PROC, path: "/proc", flags: BigInt(O.PATH | O.DIRECTORY) } },
    { order: "open", args: { slot: SYS, path: "/sys", flags: BigInt(O.PATH | O.DIRECTORY) } },
  ];
  const reads = files.map(([root, path]): Order => ({ order: "read_in", args: { root, path, max: MAX_TEXT } }));
  const outputs = await hand.run({ orders: [...roots, ...reads] });
  return files.map((_, position) => {
    const bytes = outputs.get(roots.length + position);
    return bytes ? Buffer.from(bytes).toString() : null;
  });
}

/** In the order of the files; null: there is none. As JSON has it. */
export type GuestWords = readonly (string | null)[];

export function guestFacts([release, controllers, status, last, limits, index]: GuestWords): HostFacts {
  const version = parseKernelVersion(textOf(release).trim());
  const cgroups: CgroupHierarchies = {
    mode: "v2",
    v1: [],
    unified: {
      mountpoint: CGROUP2,
      controllers: textOf(controllers)
        .split(/\s+/)
        .filter((name) => name !== ""),
    },
    swap: true,
    delegate: DELEGATED,
    bfq: false,
  };
  return {
    kernel: { release: textOf(release).trim(), version },
    features: featuresOfVersion(version, cgroups, typeof index === "string"),
    cgroups,
    capabilities: {
      effective: statusMask(textOf(status), "CapEff"),
      bounding: statusMask(textOf(status), "CapBnd"),
      last: Number(last),
    },
    rlimits: parseLimits(textOf(limits)),
    oomScoreAdj: 0,
    apparmor: false,
    selinux: false,
    warnings: [],
  };
}

const textOf = (word: string | null | undefined): string => word ?? "";
