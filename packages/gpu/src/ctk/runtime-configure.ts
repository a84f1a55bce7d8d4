/** `runtime configure`: the NVIDIA runtime made known to a container engine, in the engine's own configuration. */
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { basename, dirname, isAbsolute } from "node:path";
import { outputOf, withHand } from "../hand.ts";
import { type Dump, type Edited, ENGINES, type EngineName, type RuntimeEntry } from "./engines.ts";

export interface ConfigureFlags {
  readonly runtime: string;
  readonly config?: string;
  readonly dropInConfig?: string;
  readonly configSource: string;
  readonly executablePath?: string;
  readonly configMode?: string;
  readonly ociHookPath?: string;
  readonly nvidiaRuntimeHookPath: string;
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

/** Throws Error naming the flag, the file that cannot be read, or the engine's program that does not answer. */
export async function configureRuntime(flags: ConfigureFlags, said: Said): Promise<void> {
  if (isHookMode(flags.configMode)) return configureHook(flags, said);
  const name = Object.keys(ENGINES).find((known): known is EngineName => known === flags.runtime);
  if (name === undefined) throw new Error(`unrecognized runtime '${flags.runtime}'`);
  const engine = ENGINES[name];
  if (flags.configMode !== undefined && flags.configMode !== "config-file" && flags.configMode !== "config")
    said.warn(`Ignoring unsupported config mode for ${name}: "${flags.configMode}"`);
  const entry = entryOf(flags, engine.runtimePath);
  if (entry.cdi && !engine.knowsCdi) said.warn(`Ignoring cdi.enabled flag for ${name}`);
  const file = flags.config || engine.configFile;
  const dropIn = dropInOf(flags, engine.dropInFile, name);
  const text = existsSync(file) ? readFileSync(file, "utf8") : "";
  const source = await sourceOf(flags, engine.dump, said);
  const edited = engine.edit({ text, file, dropIn, source, entry: { ...entry, cdi: entry.cdi && engine.knowsCdi } });
  if (flags.dryRun) {
    for (const content of [edited.dropIn, edited.main]) if (content !== undefined) said.out(`${content}\n`);
    return;
  }
  write(edited, file, dropIn, said);
  said.info(`It is recommended that ${name} daemon be restarted.`);
}

const isHookMode = (mode: string | undefined): boolean => mode === "oci-hook" || mode === "hook";

/** oci-hooks(5): podman and CRI-O run it for every container. */
function configureHook({ ociHookPath = "", nvidiaRuntimeHookPath: path }: ConfigureFlags, said: Said): void {
  said.warn('The "oci-hook" config-mode is deprecated');
  const dirs = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];
  const hook = {
    version: "1.0.0",
    hook: {
      path,
      args: [basename(path), "prestart"],
      env: [`PATH=${[...new Set([...dirs, dirname(path)])].join(":")}`],
    },
    when: { always: true, commands: [".*"] },
    stages: ["prestart"],
  };
  const content = `${JSON.stringify(hook, null, 2)}\n`;
  if (ociHookPath === "") return said.out(content);
  mkdirSync(dirname(ociHookPath), { recursive: true, mode: 0o755 });
  writeFileSync(ociHookPath, content, { mode: 0o644 });
}

/** What the engine's program says of its configuration; undefined: its file counts. */
async function sourceOf(flags: ConfigureFlags, dump: Dump | undefined, said: Said): Promise<string | undefined> {
  const { configSource, executablePath, runtime } = flags;
  if (configSource !== "file" && configSource !== "command")
    throw new Error(`unrecognized Config Source: ${configSource}`);
  if (configSource === "file") return undefined;
  if (dump === undefined) {
    said.warn(`A command Config Source is not supported for ${runtime}; using file`);
    return undefined;
  }
  const [program, ...args] = dump;
  return await withHand((hand) => outputOf(hand, [executablePath || program, ...args]));
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
