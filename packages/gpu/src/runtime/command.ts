/**
 * `berth-nvidia-runtime create …`: the container's configuration is rewritten, and this process becomes the low-level runtime. Every other
 * command line is handed on by the program that starts this one (packages/native/nvidia).
 */
import { readFileSync, renameSync, rmSync, statSync, writeFileSync } from "node:fs";
import { flushCompileCache } from "node:module";
import { join, resolve } from "node:path";
import type { oci } from "@berth/spec";
import { configPath, loadConfig, type ToolkitConfig } from "../toolkit/config.ts";
import { FileLog, logFlags, textLine } from "./log.ts";
import { modified } from "./modify.ts";
import { makerOf } from "./make.ts";
import { findProgram } from "./programs.ts";

export interface RuntimeProcess {
  readonly env: NodeJS.ProcessEnv;
  cwd(): string;
  readonly stderr: { write(text: string): unknown };
  execve?(file: string, args: readonly string[], env: NodeJS.ProcessEnv): never;
}

/** Returns where it fails, with the exit status. */
export async function nvidiaRuntime(args: readonly string[], process: RuntimeProcess): Promise<number> {
  let log: FileLog | undefined;
  try {
    const { BERTH_NVIDIA_MODE: mode, ...env } = process.env;
    const config = withMode(loadConfig(configPath(env)), mode);
    const [file, level] = [
      config.get("nvidia-container-runtime.debug"),
      config.get("nvidia-container-runtime.log-level"),
    ];
    log = new FileLog(file, level, logFlags(args));
    for (const key of config.unknown.keys())
      log.warn(`the configuration has ${key}, which is not known, and has no effect`);
    const runtime = lowLevel(config, process.env["PATH"]);
    if (isCreate(args)) await modifyBundle(bundleOf(args, process.cwd()), config, process.env["PATH"], log);
    log.debug(`handing over to ${runtime}`);
    // Node writes it when it exits, which it does not do here; compiling takes as long as all the rest.
    flushCompileCache();
    process.execve?.(runtime, [runtime, ...args], env);
    throw new Error("this Node has no execve");
  } catch (error) {
    const { message } = error as Error;
    log?.error(message);
    process.stderr.write(textLine("error", message));
    return 1;
  }
}

/** Of the name that the program was started under (packages/native/nvidia). */
function withMode(config: ToolkitConfig, mode: string | undefined): ToolkitConfig {
  return mode === undefined ? config : config.with("nvidia-container-runtime.mode", mode);
}

function lowLevel(config: ToolkitConfig, path: string | undefined): string {
  const names = config.get("nvidia-container-runtime.runtimes");
  const runtime = findProgram(names, path);
  if (runtime === undefined)
    throw new Error(
      `nvidia-container-runtime.runtimes: none of ${names.join(", ") || "no names"} is a program in PATH: install one, or give a path`,
    );
  return runtime;
}

/** `--bundle create` is a directory of that name. */
export function isCreate(args: readonly string[]): boolean {
  return args.some((arg, index) => arg === "create" && !isBundleFlag(args[index - 1] ?? ""));
}

function isBundleFlag(arg: string): boolean {
  return /^--?b(undle)?$/.test(arg);
}

function bundleOf(args: readonly string[], cwd: string): string {
  const at = args.findLastIndex((arg) => isBundleFlag(arg.split("=", 1)[0] ?? ""));
  const arg = args[at];
  if (arg === undefined) return cwd;
  const bundle = arg.includes("=") ? arg.slice(arg.indexOf("=") + 1) : args[at + 1];
  if (bundle === undefined) throw new Error(`${arg}: it takes a directory`);
  return resolve(cwd, bundle);
}

async function modifyBundle(
  bundle: string,
  config: ToolkitConfig,
  path: string | undefined,
  log: FileLog,
): Promise<void> {
  const file = join(bundle, "config.json");
  const spec = parseSpec(readFileSync(file, "utf8"), file);
  const changed = await modified(spec, config, makerOf(config, path), log);
  if (changed === spec) return;
  // Whole or not at all, and as it was for whoever may read it.
  const temporary = `${file}.nvidia`;
  try {
    writeFileSync(temporary, `${JSON.stringify(changed)}\n`, { mode: statSync(file).mode & 0o777 });
    renameSync(temporary, file);
  } catch (error) {
    rmSync(temporary, { force: true });
    throw error;
  }
}

/** Numbers that a double cannot hold (limits near 2^63) stay as they are written. */
function parseSpec(text: string, file: string): oci.Spec {
  try {
    return json.parse(text, (_key, value, { source }) =>
      typeof value === "number" && !Number.isSafeInteger(value) && source !== undefined ? json.rawJSON(source) : value,
    ) as oci.Spec;
  } catch (error) {
    throw new Error(`${file}: ${(error as Error).message}`, { cause: error });
  }
}

/** As ECMAScript 2026 has it, which TypeScript's library does not yet. */
const json = JSON as unknown as {
  parse(text: string, reviver: (key: string, value: unknown, context: { source?: string }) => unknown): unknown;
  rawJSON(text: string): unknown;
};
