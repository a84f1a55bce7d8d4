/** How each container engine is told of another runtime. */
import { dirname } from "node:path";
import { at, formatTree, parseTree, type Tree, treeAt, withAt, withoutAt } from "./toml-tree.ts";

export interface RuntimeEntry {
  readonly name: string;
  readonly path: string;
  readonly asDefault: boolean;
  readonly cdi: boolean;
}

export interface Edit {
  /** Of the engine's file; "" where it is not there. */
  readonly text: string;
  readonly file: string;
  /** A file of its own for the entry, which the engine reads beside the first. */
  readonly dropIn: string | undefined;
  /** What the engine says of its configuration as a whole, in place of the file's text; undefined: it was not asked. */
  readonly source: string | undefined;
  readonly entry: RuntimeEntry;
}

/** Contents to be written; undefined: the file stays as it is. */
export interface Edited {
  readonly main?: string;
  readonly dropIn?: string;
}

/** The engine's program and its arguments. */
export type Dump = readonly [program: string, ...args: string[]];

interface Engine {
  /** What makes it tell its configuration; undefined: it cannot. */
  readonly dump?: Dump;
  readonly configFile: string;
  readonly dropInFile: string | undefined;
  readonly runtimePath: string;
  readonly knowsCdi: boolean;
  edit(edit: Edit): Edited;
}

const INSTALLED = "/usr/bin/nvidia-container-runtime";

/** berthd does what the program would. */
const IN_PROCESS = "";

export type EngineName = "berth" | "containerd" | "crio" | "docker";

export const ENGINES: Readonly<Record<EngineName, Engine>> = {
  berth: {
    configFile: "/etc/berth/config.toml",
    dropInFile: "/etc/berth/conf.d/99-nvidia.toml",
    runtimePath: IN_PROCESS,
    knowsCdi: true,
    edit: containerd,
  },
  containerd: {
    dump: ["containerd", "config", "dump"],
    configFile: "/etc/containerd/config.toml",
    dropInFile: "/etc/containerd/conf.d/99-nvidia.toml",
    runtimePath: INSTALLED,
    knowsCdi: true,
    edit: containerd,
  },
  crio: {
    dump: ["crio", "status", "config"],
    configFile: "/etc/crio/crio.conf",
    dropInFile: "/etc/crio/crio.conf.d/99-nvidia.toml",
    runtimePath: INSTALLED,
    knowsCdi: false,
    edit: crio,
  },
  docker: {
    configFile: "/etc/docker/daemon.json",
    dropInFile: undefined,
    runtimePath: "nvidia-container-runtime",
    knowsCdi: true,
    edit: docker,
  },
};

const RUNTIME_TYPE = "io.containerd.runc.v2";
const VERSION = 2;

/** Version 1 has no imports: there the entry is in the file itself. */
function containerd({ text, file, dropIn, source: told, entry }: Edit): Edited {
  const own = parseTree(text, file);
  const tree = told === undefined ? own : parseTree(told, "what containerd says of its configuration");
  const version = Object.keys(tree).length === 0 ? VERSION : (tree["version"] ?? 1);
  if (typeof version !== "number") throw new Error(`${file}: version must be a number`);
  const plugin = version === 1 ? "cri" : version === 2 ? "io.containerd.grpc.v1.cri" : "io.containerd.cri.v1.runtime";
  const cri = ["plugins", plugin];
  const source = treeAt(tree, cri);
  const base = version === 1 ? tree : dropIn === undefined ? own : source === undefined ? {} : withAt({}, cri, source);
  const added = withRuntime(withAt(base, ["version"], version), cri, optionsOf(tree, cri), entry);
  const path = [...cri, ...(version === 1 ? ["containerd"] : []), "enable_cdi"];
  const result = formatTree(entry.cdi ? withAt(added, path, true) : added);
  if (dropIn === undefined || version === 1) return { main: result };
  return { dropIn: result, ...withImport(text, own, `${dirname(dropIn)}/*.toml`, version) };
}

/** What the node's runtimes have, but for the program, is what this one should have. */
function optionsOf(tree: Tree, cri: readonly string[]): Tree {
  const runtimes = [...cri, "containerd", "runtimes"];
  const found = lowLevel(at(tree, [...cri, "containerd", "default_runtime_name"]))
    .map((name) => treeAt(tree, [...runtimes, name]))
    .find((options) => options !== undefined);
  const bare = {
    privileged_without_host_devices: false,
    runtime_engine: "",
    runtime_root: "",
    runtime_type: RUNTIME_TYPE,
  };
  return found ?? bare;
}

function lowLevel(byDefault: unknown): string[] {
  const first = typeof byDefault === "string" && byDefault !== "" && !byDefault.startsWith("nvidia") ? [byDefault] : [];
  return [...first, "runc", "crun"];
}

function withRuntime(tree: Tree, cri: readonly string[], options: Tree, { name, path, asDefault }: RuntimeEntry): Tree {
  const own = [...cri, "containerd", "runtimes", name];
  const typed = options["runtime_type"] ? options : { ...options, runtime_type: RUNTIME_TYPE };
  const added = withAt(tree, own, typed);
  const binary =
    path === IN_PROCESS
      ? withAt(withoutAt(added, [...own, "options", "BinaryName"]), [...own, "options", "NvidiaRuntime"], true)
      : withAt(added, [...own, "options", "BinaryName"], path);
  const named = cri.at(-1) === "cri" ? withAt(binary, [...own, "options", "Runtime"], path) : binary;
  return withDefault(named, [...cri, "containerd", "default_runtime_name"], name, asDefault);
}

function withDefault(tree: Tree, path: readonly string[], name: string, asDefault: boolean): Tree {
  if (asDefault) return withAt(tree, path, name);
  return at(tree, path) === name ? withoutAt(tree, path) : tree;
}

/** One line more, and all else as it is, where the file imports nothing yet: a person's comments are worth keeping. */
function withImport(text: string, tree: Tree, pattern: string, version: number): Edited {
  const imports = tree["imports"];
  if (Array.isArray(imports) && imports.includes(pattern)) return {};
  if (imports !== undefined)
    return { main: formatTree({ ...tree, imports: [...(Array.isArray(imports) ? imports : []), pattern] }) };
  const line = `imports = [${JSON.stringify(pattern)}]\n`;
  return { main: Object.keys(tree).length === 0 ? `${line}version = ${version}\n${text}` : `${line}${text}` };
}

function crio({ text, file, dropIn, source, entry }: Edit): Edited {
  const written = parseTree(text, file);
  const tree = source === undefined ? written : parseTree(source, "what crio says of its configuration");
  const runtime = ["crio", "runtime"];
  const own = [...runtime, "runtimes", entry.name];
  const options = lowLevel(at(tree, [...runtime, "default_runtime"]))
    .map((name) => treeAt(tree, [...runtime, "runtimes", name]))
    .find((found) => found !== undefined);
  const filled = { ...options, runtime_path: entry.path, runtime_type: "oci" };
  const base = dropIn === undefined ? written : {};
  const result = withDefault(withAt(base, own, filled), [...runtime, "default_runtime"], entry.name, entry.asDefault);
  return dropIn === undefined ? { main: formatTree(result) } : { dropIn: formatTree(result) };
}

function docker({ text, file, entry }: Edit): Edited {
  const config = text.trim() === "" ? {} : jsonTree(text, file);
  const runtimes = treeAt(config, ["runtimes"]) ?? {};
  const withOwn = { ...config, runtimes: { ...runtimes, [entry.name]: { args: [], path: entry.path } } };
  const chosen = entry.asDefault ? { ...withOwn, "default-runtime": entry.name } : withOwn;
  const features = { ...treeAt(config, ["features"]), cdi: true };
  return { main: JSON.stringify(sorted(entry.cdi ? { ...chosen, features } : chosen), null, 4) };
}

function jsonTree(text: string, file: string): Tree {
  try {
    return JSON.parse(text) as Tree;
  } catch (error) {
    throw new Error(`${file}: ${(error as Error).message}`, { cause: error });
  }
}

function sorted(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(sorted);
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(
    Object.entries(value)
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(([key, one]) => [key, sorted(one)]),
  );
}
