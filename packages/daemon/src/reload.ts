/** SIGHUP: reads the configuration again, takes over what can change while pods run, and says what cannot. */
import type pino from "pino";
import type { Daemon } from "./assemble.ts";
import { describe } from "./config/check.ts";
import type { Given, Settings } from "./config/settings.ts";

/** Of `cri`: what a listening socket or a running container has fixed. */
const FIXED_CRI = ["streamAddress", "streamPort", "streamIdleMs", "streamTls"] as const;
const FIXED = [
  "root",
  "state",
  "addresses",
  "socketGid",
  "netnsDir",
  "cni",
  "registry",
  "verification",
  "authFile",
  "maxConcurrentDownloads",
  "snapshotter",
  "collection",
  "pinned",
  "oomScore",
  "metricsAddress",
  "tracing",
  "nri",
  "bosun",
] as const;

/** A configuration with errors changes nothing. */
export async function reload(daemon: Daemon, read: () => Promise<Given>, log: pino.Logger): Promise<void> {
  let given: Given;
  try {
    given = await read();
  } catch (error) {
    log.error(
      { err: error },
      `the configuration stays as it was: ${error instanceof Error ? error.message : String(error)}`,
    );
    return;
  }
  for (const problem of given.problems) if (problem.severity === "warning") log.warn({}, describe(problem));
  const { settings } = given;
  const waiting = needsRestart(daemon.settings, settings);
  const { cri } = daemon.settings;
  const kept = Object.fromEntries(FIXED_CRI.map((name) => [name, cri[name]]));
  daemon.context.runtimes = settings.handlers;
  Object.assign(daemon.context.config, settings.cri, kept);
  log.level = settings.logLevel;
  await daemon.context.cni.reload();
  if (waiting.length > 0) log.warn({ settings: waiting }, `in force after a restart of berthd: ${waiting.join(", ")}`);
  log.info({}, "the configuration was read again");
}

function needsRestart(before: Settings, after: Settings): string[] {
  const differs = (a: unknown, b: unknown): boolean => JSON.stringify(a) !== JSON.stringify(b);
  return [
    ...FIXED.filter((name) => differs(before[name], after[name])),
    ...FIXED_CRI.filter((name) => differs(before.cri[name], after.cri[name])).map((name) => `cri.${name}`),
  ];
}
