/** CRIU, which checkpoints and restores (criu.org): whether it can, what the flags ask of it, and what its log says of a failure. */
import { readFileSync, statSync } from "node:fs";
import { isIP } from "node:net";
import { join, resolve } from "node:path";
import { OrderError, type Plan } from "@berth/kernel";
import { decodeRequest } from "@berth/spec/criu";
import type { CriuOptions } from "../criu/options.ts";
import { isMissing } from "../state/record.ts";
import { CommandError } from "./failure.ts";
import type { Flags } from "./flags.ts";
import type { Log } from "./log.ts";
import { runProgram } from "./program.ts";

/** Throws CommandError with CRIU's own reason where it is missing or says that it cannot work here. */
export function checkCriu(): void {
  const { status, stdout, stderr } = runProgram("criu", ["check"]);
  if (status === 0) return;
  const reasons = `${stdout}${stderr}`
    .split("\n")
    .filter((line) => /Error/.test(line))
    .map((line) => line.replace(/^\(?[\d.]*\)?\s*/, ""));
  throw new CommandError(
    `criu cannot work on this machine (criu check): ${reasons.join("; ") || `exit status ${status}`}`,
  );
}

/** Features by CRIU's names, told by libcontainer's. Throws CommandError. */
export function checkFeatures(features: Readonly<Record<string, boolean>>): void {
  const names: Readonly<Record<string, string>> = { MemTrack: "mem_dirty_track", LazyPages: "uffd-noncoop" };
  const missing = Object.keys(features).filter(
    (name) => features[name] && runProgram("criu", ["check", "--feature", names[name] ?? name]).status !== 0,
  );
  if (missing.length > 0) throw new CommandError(`criu is missing features: [${missing.join(" ")}]`);
}

/** Throws CommandError where CRIU is older than `least` ("3.16"). */
export function checkVersion(least: string, flag: string): void {
  const number = (text: string): number => {
    const [major = 0, minor = 0] = text.split(".").map(Number);
    return major * 100 + minor;
  };
  const version = /^Version: (\S+)/m.exec(runProgram("criu", ["--version"]).stdout)?.[1] ?? "0";
  if (number(version) < number(least))
    throw new CommandError(`${flag} requires at least CRIU ${least}; this is ${version}`);
}

export interface Paths {
  readonly images: string;
  readonly work: string | undefined;
}

/** Absolute, relative ones from where the caller is. */
export function pathsOf(flags: Flags): Paths {
  return {
    images: resolve(flags.text("image-path") || "checkpoint"),
    work: flags.has("work-path") && flags.text("work-path") !== "" ? resolve(flags.text("work-path")) : undefined,
  };
}

/** Throws CommandError. */
export function commonFlags(flags: Flags): CriuOptions {
  for (const namespace of flags.texts("empty-ns"))
    if (namespace !== "network") throw new CommandError(`namespace ${JSON.stringify(namespace)} is not supported`);
  return {
    tcpEstablished: flags.boolean("tcp-established"),
    extUnixSk: flags.boolean("ext-unix-sk"),
    shellJob: flags.boolean("shell-job"),
    fileLocks: flags.boolean("file-locks"),
    autoDedup: flags.boolean("auto-dedup"),
    lazyPages: flags.boolean("lazy-pages"),
    manageCgroupsMode: flags.text("manage-cgroups-mode"),
  };
}

/** Throws CommandError. */
export function parentPath(flags: Flags, images: string): string | undefined {
  const parent = flags.text("parent-path");
  if (parent === "") return undefined;
  if (parent.startsWith("/")) throw new CommandError("--parent-path must be relative");
  const path = join(images, parent);
  const problem = directoryProblem(path);
  if (problem !== undefined) throw new CommandError(`invalid --parent-path: stat ${path}: ${problem}`);
  return parent;
}

function directoryProblem(path: string): string | undefined {
  try {
    return statSync(path).isDirectory() ? undefined : "not a directory";
  } catch (error) {
    if (isMissing(error)) return "no such file or directory";
    throw error;
  }
}

/** ADDRESS:PORT, an IPv6 address in brackets. Throws CommandError. */
export function pageServer(text: string): { readonly address: string; readonly port: number } | undefined {
  if (text === "") return undefined;
  const match = /^(?:\[([^\]]+)\]|([^:]+)):([^:]+)$/.exec(text);
  const address = match?.[1] ?? match?.[2];
  const port = match?.[3];
  if (address === undefined || port === undefined || (match?.[1] !== undefined && isIP(address) !== 6))
    throw new CommandError("Use --page-server ADDRESS:PORT to specify page server");
  if (!/^\d{1,5}$/.test(port) || Number(port) > 65_535) throw new CommandError("Invalid port number");
  return { address, port: Number(port) };
}

const O_WRONLY = 1;

/** --status-fd as a path: a descriptor that this process has from its caller. Throws CommandError. */
export function statusFile(flags: Flags): string | undefined {
  if (!flags.has("status-fd") || flags.text("status-fd") === "-1") return undefined;
  const text = flags.text("status-fd");
  let info: string;
  try {
    info = readFileSync(`/proc/self/fdinfo/${Number(text)}`, "utf8");
  } catch (error) {
    if (!isMissing(error)) throw error;
    throw new CommandError(`invalid --status-fd argument ${text}: bad file descriptor`, { cause: error });
  }
  const flagsOfFile = Number.parseInt(/^flags:\s*(\d+)/m.exec(info)?.[1] ?? "0", 8);
  if ((flagsOfFile & O_WRONLY) === 0) throw new CommandError(`invalid --status-fd argument ${text}: not writable`);
  return `/proc/${process.pid}/fd/${Number(text)}`;
}

/** --debug: what CRIU is asked for. */
export function logRequest({ orders }: Plan, log: Log): void {
  if (!log.isDebug) return;
  for (const order of orders)
    if (order.order === "criu")
      for (const [name, value] of Object.entries(decodeRequest(order.args.request).opts ?? {}))
        log.debug(`CRIU option ${name} with value ${JSON.stringify(value)}`);
}

/** Lines around each error of CRIU's log, as warnings; what failed, with the first of them. Other errors as they are. */
export function criuFailure(error: unknown, { images, work }: Paths, logName: string, log: Log): unknown {
  const failed = error instanceof CommandError && error.cause instanceof OrderError ? error.cause : error;
  if (!(failed instanceof OrderError) || failed.orderName?.startsWith("criu") !== true) return error;
  const file = join(work ?? images, logName);
  const first = quoteLog(file, log);
  const reason = first === undefined || failed.detail.includes("Error") ? "" : `: ${first}`;
  return new CommandError(`${failed.detail}${reason} (log file: ${file})`, { cause: error });
}

/** Lines before an error that are quoted with it. */
const CONTEXT = 5;

function quoteLog(file: string, log: Log): string | undefined {
  let text: string;
  try {
    text = readFileSync(file, "utf8");
  } catch (error) {
    // It failed before it opened one.
    if (isMissing(error)) return undefined;
    throw error;
  }
  const lines = text.split("\n");
  let printed = 0;
  let first: string | undefined;
  for (const [index, line] of lines.entries()) {
    if (!line.includes("Error")) continue;
    first ??= line.replace(/^\([\d.]+\)\s*(?:\d+:\s*)?/, "");
    if (printed === 0) log.warning(`--- Quoting ${JSON.stringify(file)}`);
    else if (index - CONTEXT > printed) log.warning("...");
    for (let at = Math.max(printed, index - CONTEXT); at <= index; at++) log.warning(`${at + 1}:${lines[at] ?? ""}`);
    printed = index + 1;
  }
  if (printed > 0) log.warning("---");
  return first;
}
