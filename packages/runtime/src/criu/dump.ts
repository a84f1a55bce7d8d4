/** A checkpoint: CRIU's request, and the plan that has it carried out. What is restored later must match what is asked for here. */
import { readFile, readlink, stat } from "node:fs/promises";
import { join } from "node:path";
import { parseMountInfo, type HostFacts, type MountInfo, type Order, type Plan } from "@berth/kernel";
import { encodeRequest, RequestType, type Options } from "@berth/spec/criu";
import type { oci } from "@berth/spec";
import { PlanError } from "../context.ts";
import { cleanPath } from "../paths.ts";
import { externalMounts, MASK, maskedFiles } from "./external.ts";
import { commonOptions, CRIU, INHERITED, openedPaths, type CriuOptions, type CriuPlace } from "./options.ts";

export interface DumpOptions extends CriuOptions {
  readonly leaveRunning?: boolean | undefined;
  readonly tcpSkipInFlight?: boolean | undefined;
  readonly linkRemap?: boolean | undefined;
  readonly preDump?: boolean | undefined;
  /** Of an earlier checkpoint, relative to the images. */
  readonly parentPath?: string | undefined;
  readonly pageServer?: { readonly address: string; readonly port: number } | undefined;
  /** A file that gets a NUL byte once lazy pages are served. */
  readonly statusFile?: string | undefined;
  /** ms; past it CRIU is refused its next step, and the container goes on as it was. */
  readonly timeoutMs?: number | undefined;
  /** Carried out once all is written, while every process still stands still. */
  readonly meanwhile?: readonly Order[] | undefined;
}

export interface DumpTarget {
  readonly pid: number;
  readonly spec: oci.Spec;
  /** From the hierarchies' roots. */
  readonly cgroup: string;
  /** Directory of the cgroup whose freezer holds all of it; absent: CRIU stops the processes one by one. */
  readonly freezer?: string | undefined;
  /** Of the host, where it has a path. */
  readonly rootfs?: string | undefined;
  readonly host: HostFacts;
}

export const DUMP_LOG = "dump.log";

/** Reads the container's mounts and namespaces. Throws PlanError, or what reading /proc fails with. */
export async function planDump(
  target: DumpTarget,
  place: CriuPlace,
  options: DumpOptions,
  env: readonly string[],
): Promise<Plan> {
  const type = options.preDump === true ? RequestType.PRE_DUMP : RequestType.DUMP;
  const request = encodeRequest(type, await dumpOptions(target, place, options));
  const { meanwhile = [] } = options;
  return {
    orders: [
      {
        order: "criu",
        args: {
          argv: CRIU,
          env,
          request,
          open: openedPaths(place),
          stdio: 0,
          until: meanwhile.length > 0 ? "post-dump" : "",
          status: options.statusFile ?? "",
          timeoutMs: options.timeoutMs ?? 0,
        },
        because: "checkpoint",
      },
      ...meanwhile,
      ...(meanwhile.length > 0 ? [{ order: "criu_go_on", args: { until: "" }, because: "checkpoint" } as const] : []),
    ],
  };
}

async function dumpOptions(target: DumpTarget, place: CriuPlace, options: DumpOptions): Promise<Options> {
  const { pid, spec, rootfs, freezer } = target;
  return {
    ...commonOptions(spec, place, options, DUMP_LOG),
    pid,
    ...(rootfs === undefined ? {} : { root: rootfs }),
    leaveRunning: options.leaveRunning ?? false,
    tcpSkipInFlight: options.tcpSkipInFlight ?? false,
    linkRemap: options.linkRemap ?? false,
    external: await externalNamespaces(pid, spec),
    ...(freezer === undefined ? {} : { freezeCgroup: freezer }),
    ...(options.pageServer === undefined ? {} : { ps: { ...options.pageServer } }),
    ...(options.parentPath === undefined ? {} : { parentImg: options.parentPath, trackMem: true }),
    extMnt: options.preDump === true ? [] : await mountNames(target),
  };
}

/** A namespace that was joined is not the container's to dump. */
async function externalNamespaces(pid: number, spec: oci.Spec): Promise<string[]> {
  const joined = (spec.linux?.namespaces ?? []).filter(({ path }) => path !== undefined && path !== "");
  const names = joined.map(async ({ type }) => {
    const as = INHERITED[type];
    if (as === undefined) return [];
    const { ino } = await stat(`/proc/${pid}/ns/${as.kind}`);
    return [`${as.kind}[${ino}]:${as.key}`];
  });
  return (await Promise.all(names)).flat();
}

/** By where they are mounted in fact; the name is what the configuration calls the place, so that a restore finds it there. */
async function mountNames({ pid, spec, host, cgroup }: DumpTarget): Promise<{ key: string; val: string }[]> {
  const mounts = parseMountInfo(await readFile(`/proc/${pid}/mountinfo`, "utf8"));
  const named = externalMounts(spec, host, cgroup).map(async ({ destination }) => ({
    key: await mountPoint(pid, destination, mounts),
    val: destination,
  }));
  return [
    ...(await Promise.all(named)),
    ...maskedFiles(spec, mounts).map((path) => ({ key: path, val: MASK.destination })),
  ];
}

const MOST_LINKS = 40;

/** The path is only ever a name: nothing is opened by it. */
async function mountPoint(pid: number, path: string, mounts: readonly MountInfo[]): Promise<string> {
  if (mounts.some(({ target }) => target === path)) return path;
  return await withoutLinks(`/proc/${pid}/root`, path);
}

/** Where a path leads inside a root, links taken as the root's; what is missing is taken as it stands. */
export async function withoutLinks(root: string, path: string): Promise<string> {
  let rest = cleanPath(path).slice(1).split("/");
  let at = "/";
  for (let links = 0; rest.length > 0;) {
    const [name = "", ...others] = rest;
    rest = others;
    const target = await linkTarget(join(root, at, name));
    if (target === undefined) {
      at = join(at, name);
      continue;
    }
    if (++links > MOST_LINKS) throw new PlanError("mounts", `${path}: too many symbolic links`);
    rest = [
      ...cleanPath(target.startsWith("/") ? target : join(at, target))
        .slice(1)
        .split("/"),
      ...rest,
    ];
    at = "/";
  }
  return at;
}

async function linkTarget(path: string): Promise<string | undefined> {
  try {
    return await readlink(path);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "EINVAL" || code === "ENOENT" || code === "ENOTDIR") return undefined;
    throw error;
  }
}
