/** `runtime configure`: the NVIDIA runtime made known to a container engine, in the engine's own configuration. */
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, isAbsolute } from "node:path";
import { type Edited, ENGINES, type EngineName, type RuntimeEntry } from "./engines.ts";

export interface ConfigureFlags {
  readonly runtime: string;
  readonly config?: string;
  readonly dropInConfig?: string;
  readonly configSource: string;
  readonly configMode?: string;
  readonly dryRun?: boolean;
  readonly nvidiaRuntimeName: string;
  readonly nvidiaRuntimePath?: string | undefined;
  readonly nvidiaSetAsDefault?: boolean | undefined;
  readonly "cdi.enabled"?: boolean | undefined;
}

export interface Said {
  /** Of a dry run. */
  out(text: string): void;
  info(text: string): void;
  warn(text: string): void;
}

/** Throws Error naming the flag, or the file that cannot be read. */
export function configureRuntime(flags: ConfigureFlags, said: Said): void {
  const name = Object.keys(ENGINES).find((known): known is EngineName => known === flags.runtime);
  if (name === undefined) throw new Error(`unrecognized runtime '${flags.runtime}'`);
  const engine = ENGINES[name];
  checkSources(flags, said);
  const entry = entryOf(flags, engine.runtimePath);
  if (entry.cdi && !engine.knowsCdi) said.warn(`Ignoring cdi.enabled flag for ${name}`);
  const file = flags.config || engine.configFile;
  const dropIn = dropInOf(flags, engine.dropInFile, name);
  const text = existsSync(file) ? readFileSync(file, "utf8") : "";
  const edited = engine.edit({ text, file, dropIn, entry: { ...entry, cdi: entry.cdi && engine.knowsCdi } });
  if (flags.dryRun) {
    for (const content of [edited.dropIn, edited.main]) if (content !== undefined) said.out(`${content}\n`);
    return;
  }
  write(edited, file, dropIn, said);
  said.info(`It is recommended that ${name} daemon be restarted.`);
}

function checkSources({ configSource, configMode, runtime }: ConfigureFlags, said: Said): void {
  if (configMode === "oci-hook" || configMode === "hook")
    throw new Error(
      `--config-mode ${configMode}: hooks of a directory are deprecated, and not made; use --config-mode config-file`,
    );
  if (configMode !== undefined && configMode !== "config-file" && configMode !== "config")
    said.warn(`Ignoring unsupported config mode for ${runtime}: "${configMode}"`);
  if (configSource === "command")
    throw new Error("--config-source command: the engine is not asked; give its file by --config");
  if (configSource !== "file") throw new Error(`unrecognized Config Source: ${configSource}`);
}

function entryOf(flags: ConfigureFlags, standard: string): RuntimeEntry {
  const given = flags.nvidiaRuntimePath ?? "";
  const path = given === "" || given === "nvidia-container-runtime" ? standard : given;
  if (!isAbsolute(path) && path !== standard)
    throw new Error(`the NVIDIA runtime path "${path}" is not an absolute path`);
  const { nvidiaRuntimeName: name, nvidiaSetAsDefault: asDefault = false } = flags;
  return { name, path, asDefault, cdi: flags["cdi.enabled"] === true };
}

function dropInOf(flags: ConfigureFlags, standard: string | undefined, engine: string): string | undefined {
  const file = flags.dropInConfig ?? standard;
  if (file === undefined || file === "") return undefined;
  if (standard === undefined) throw new Error(`runtime ${engine} does not support drop-in configs`);
  if (!isAbsolute(file)) throw new Error(`the drop-in-config path "${file}" is not an absolute path`);
  return file;
}

function write(edited: Edited, file: string, dropIn: string | undefined, said: Said): void {
  const files = [
    [dropIn, edited.dropIn],
    [file, edited.main],
  ] as const;
  for (const [path, content] of files) {
    if (path === undefined || content === undefined) continue;
    if (content === "") {
      rmSync(path, { force: true });
      said.info(`Removed empty config from ${path}`);
      continue;
    }
    mkdirSync(dirname(path), { recursive: true, mode: 0o755 });
    writeFileSync(path, content, { mode: 0o644 });
    said.info(`Wrote updated config to ${path}`);
  }
}
