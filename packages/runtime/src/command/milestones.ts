/** --debug: every order before the first is carried out, and how far a process has come, in the words that runc has for it. */
import { describePlan, type Plan } from "@berth/kernel";
import type { Log } from "./log.ts";

export function logPlan(log: Log, plan: Plan): void {
  if (!log.isDebug) return;
  for (const { where, words, because } of describePlan(plan)) log.debug(`${where}: ${words} (${because})`);
  log.debug("bosun exeseal: using /proc/self/exe clone");
  log.debug("nsexec container setup");
  for (const { order, args } of plan.orders) {
    if (order === "affinity" && args.mask.length > 0) log.debug(`nsexec: affinity: ${hexadecimal(args.mask)}`);
    if (order === "seccomp") {
      const isHeard = plan.orders.some((one) => one.order === "seccomp_listener");
      log.debug(`seccomp filter flags: ${(args.flags & ~TSYNC) | (isHeard ? NEW_LISTENER : 0n)}`);
    }
  }
}

/** SECCOMP_FILTER_FLAG_*: TSYNC has no effect on one thread; bosun adds the other where somebody listens. */
const TSYNC = 1n;
const NEW_LISTENER = 8n;

/** `init`: a container's first process, which is released by the closing of a pipe; else one that joins it. */
export function logMade(log: Log, pid: number): void {
  log.debug(`child process in init(): ${pid}`);
}

export function logReleased(log: Log, kind: "init" | "exec"): void {
  log.debug(kind === "init" ? "init: closing the pipe to signal completion" : "setns_init: about to exec");
}

/** A mask of CPUs as sched_setaffinity(2) takes it, the first CPU last. */
function hexadecimal(mask: Uint8Array): string {
  return `0x${Buffer.from(mask)
    .reverse()
    .toString("hex")
    .replace(/^0+(?=.)/, "")}`;
}
