/**
 * `nvidia-container-runtime-hook prestart`: puts GPUs into a container that is being made (mode legacy). Where
 * nvidia-container-cli is installed this process becomes it; elsewhere berth does the same itself (inject.ts).
 */
import { existsSync, readFileSync } from "node:fs";
import { flushCompileCache } from "node:module";
import { join, resolve } from "node:path";
import { parseArgs } from "node:util";
import type { oci } from "@berth/spec";
import { findProgram } from "../runtime/programs.ts";
import { runtimeMode } from "../runtime/mode.ts";
import { configPath, loadConfig, type ToolkitConfig } from "../toolkit/config.ts";
import { Request } from "../toolkit/request.ts";
import { cliArguments, driverCapabilities, type Target } from "./arguments.ts";

export interface HookProcess {
  readonly env: NodeJS.ProcessEnv;
  readonly stdout: { write(text: string): unknown };
  readonly stderr: { write(text: string): unknown };
  readonly stdin: AsyncIterable<Buffer | string>;
  execve?(file: string, args: readonly string[], env: NodeJS.ProcessEnv): never;
}

const USAGE = `Usage of nvidia-container-runtime-hook:
  -config string
    	configuration file
  -debug
    	enable debug output
  -version
    	enable version output

Commands:
  prestart
        run the prestart hook
  poststart
        no-op
  poststop
        no-op
`;

interface Flags {
  readonly config?: string | undefined;
  readonly debug?: boolean | undefined;
  readonly version?: boolean | undefined;
}

/** Exit status. */
export async function prestartHook(args: readonly string[], process: HookProcess): Promise<number> {
  let parsed: { readonly values: Flags; readonly positionals: readonly string[] };
  try {
    parsed = parsedArguments(args);
  } catch (error) {
    process.stderr.write(`${(error as Error).message}\n${USAGE}`);
    return 2;
  }
  const { values, positionals } = parsed;
  if (values.version) {
    process.stdout.write("NVIDIA Container Runtime Hook version berth 0.1.0\n");
    return 0;
  }
  switch (positionals[0]) {
    case "poststart":
    case "poststop":
      return 0;
    case "prestart":
      return await prestart(values, process);
    default:
      process.stderr.write(USAGE);
      return 2;
  }
}

/** Go's flags have one dash or two. */
function parsedArguments(args: readonly string[]) {
  return parseArgs({
    args: args.map((arg) => (/^-[a-z]{2,}/.test(arg) ? `-${arg}` : arg)),
    options: { config: { type: "string" }, debug: { type: "boolean" }, version: { type: "boolean" } },
    allowPositionals: true,
  });
}

async function prestart(flags: Flags, process: HookProcess): Promise<number> {
  try {
    const config = hookConfig(flags, process.env);
    const state = await stateOf(process.stdin);
    const spec = JSON.parse(readFileSync(join(state.bundle, "config.json"), "utf8")) as oci.Spec;
    const request = new Request(spec, config, (message) => process.stderr.write(`${message}\n`));
    const devices = request.devices(false);
    if (devices.length === 0) return 0;
    checkMode(config, request);
    const target = { pid: state.pid, rootfs: resolve(state.bundle, spec.root?.path ?? "") };
    const cli = containerCli(config, process.env["PATH"]);
    if (cli === undefined) return await injected(spec, request, devices, config, target);
    flushCompileCache();
    process.execve?.(cli, [cli, ...cliArguments(request, devices, config, target, flags.debug === true)], {
      ...process.env,
      ...Object.fromEntries(config.get("nvidia-container-cli.environment").map((entry) => entry.split(/=(.*)/s, 2))),
    });
    throw new Error("this Node has no execve");
  } catch (error) {
    process.stderr.write(`${(error as Error).message}\n`);
    return 1;
  }
}

function hookConfig(flags: Flags, env: NodeJS.ProcessEnv): ToolkitConfig {
  const named = flags.config || env["NVIDIA_CTK_CONFIG_FILE_PATH"];
  if (named && !existsSync(named)) throw new Error(`couldn't open required configuration file: ${named} is not there`);
  return loadConfig(named || configPath(env));
}

interface State {
  readonly pid: number;
  readonly bundle: string;
}

async function stateOf(stdin: AsyncIterable<Buffer | string>): Promise<State> {
  const chunks: Buffer[] = [];
  for await (const chunk of stdin) chunks.push(Buffer.from(chunk));
  const state = JSON.parse(Buffer.concat(chunks).toString("utf8")) as Partial<Record<string, unknown>>;
  const bundle = state["bundle"] || state["bundlePath"];
  const pid = state["pid"];
  if (typeof bundle !== "string" || typeof pid !== "number" || pid <= 0)
    throw new Error("could not decode container state: it must have a bundle and a pid");
  return { pid, bundle };
}

/** Docker's --gpus calls the hook whatever the mode; its edits beside another mode's would be there twice. */
function checkMode(config: ToolkitConfig, request: Request): void {
  if (config.get("nvidia-container-runtime-hook.skip-mode-detection")) return;
  const configured = config.get("nvidia-container-runtime.mode");
  const mode =
    configured === "auto" ? runtimeMode("auto", request, config.get("nvidia-container-cli.root")) : configured;
  // What "auto" comes to for want of anything else is legacy here.
  if (mode === "legacy" || (configured === "auto" && mode === "jit-cdi")) return;
  throw new Error(
    "invoking the NVIDIA Container Runtime Hook directly (e.g. specifying the docker --gpus flag) is not supported. Please use the NVIDIA Container Runtime (e.g. specify the --runtime=nvidia flag) instead",
  );
}

function containerCli(config: ToolkitConfig, path: string | undefined): string | undefined {
  const configured = config.get("nvidia-container-cli.path");
  if (configured === "") return findProgram(["nvidia-container-cli"], path);
  return configured;
}

async function injected(
  spec: oci.Spec,
  request: Request,
  devices: readonly string[],
  config: ToolkitConfig,
  target: Target,
): Promise<number> {
  const { inject } = await import("./inject.ts");
  await inject({ spec, request, devices, config, target, capabilities: driverCapabilities(request, config) });
  return 0;
}
