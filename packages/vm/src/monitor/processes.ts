/** Processes of the node that a machine is made of, each kind summed up under the names that Kata has for it. */
import { readdir, readFile } from "node:fs/promises";
import type { Family } from "./exposition.ts";
import { family, type FamilyName, items, single } from "./families.ts";
import { netdevSamples, numbers, parseStat, statusItems } from "./proc.ts";

type Kind = "hypervisor" | "shim" | "virtiofsd";

/** `pids`: at least one; those that have gone meanwhile count for nothing. */
export async function processFamilies(kind: Kind, pids: readonly number[]): Promise<Family[]> {
  const looked = (await Promise.all(pids.map(look))).filter((one) => one !== undefined);
  if (looked.length === 0) return [];
  const named = (rest: string): FamilyName => `kata_${kind}_${rest}` as FamilyName;
  const sum = (of: (one: Looked) => Record<string, number>): Record<string, number> => looked.map(of).reduce(added, {});
  const [first] = looked;
  return [
    single(
      named("fds"),
      looked.reduce((total, { descriptors }) => total + descriptors, 0),
    ),
    single(
      named("threads"),
      looked.reduce((total, { threads }) => total + threads, 0),
    ),
    family(named("proc_stat"), items(sum(({ times }) => times))),
    family(named("proc_status"), items(sum(({ status }) => status))),
    family(named("io_stat"), items(sum(({ io }) => io))),
    ...(kind === "virtiofsd" || !first ? [] : [family(named("netdev"), netdevSamples(first.netdev))]),
  ];
}

interface Looked {
  readonly descriptors: number;
  readonly threads: number;
  readonly times: Record<string, number>;
  readonly status: Record<string, number>;
  readonly io: Record<string, number>;
  readonly netdev: string;
}

const GONE = new Set(["ENOENT", "ESRCH"]);

async function look(pid: number): Promise<Looked | undefined> {
  const text = (name: string): Promise<string> => readFile(`/proc/${pid}/${name}`, "latin1");
  try {
    const [stat, status, io, netdev, descriptors] = await Promise.all([
      text("stat"),
      text("status"),
      text("io"),
      text("net/dev"),
      readdir(`/proc/${pid}/fd`),
    ]);
    const { times, threads } = parseStat(stat);
    const ioItems = numbers(io, (own) => own.replaceAll("_", ""));
    return { descriptors: descriptors.length, threads, times, status: statusItems(status, 1024), io: ioItems, netdev };
  } catch (error) {
    if (GONE.has((error as NodeJS.ErrnoException).code ?? "")) return undefined;
    throw error;
  }
}

function added(all: Record<string, number>, one: Record<string, number>): Record<string, number> {
  for (const [key, value] of Object.entries(one)) all[key] = (all[key] ?? 0) + value;
  return all;
}
