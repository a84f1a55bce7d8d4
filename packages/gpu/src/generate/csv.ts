/**
 * A CDI specification of a Tegra system's GPU, of which files of comma-separated values say what it takes: "dev", "dir", "lib" or "sym", and
 * a path.
 */
import {
  existsSync,
  globSync,
  lstatSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  realpathSync,
  statSync,
} from "node:fs";
import { basename, dirname, join, matchesGlob, resolve } from "node:path";
import {
  type CdiDevice,
  type CdiMount,
  type CdiSpec,
  type ContainerEdits,
  CURRENT_VERSION,
} from "@berth/cdi/injection";
import type { Nvml } from "../nvml/library.ts";
import { cacheHook, libraryLinks, linkHook } from "./hooks.ts";
import { mountsBelow } from "./mounts.ts";
import { nodeEdits } from "./nodes.ts";
import { type GenerateOptions, NAME_STRATEGIES } from "./nvml.ts";
import { tegraGpus } from "./tegra.ts";
import { tidy, withAll } from "./tidy.ts";

export const CSV_DIR = "/etc/nvidia-container-runtime/host-files-for-container.d";
export const BASE_FILES = ["devices.csv", "drivers.csv", "l4t.csv"];
/** Where images for an Orin, whose driver's CUDA is another than a discrete GPU's, have newer libraries. */
const ORIN_COMPAT_ROOT = "/usr/local/cuda/compat_orin";
const TYPES = ["dev", "dir", "lib", "sym"] as const;
type Paths = Record<(typeof TYPES)[number], string[]>;

export interface CsvSources {
  readonly files: readonly string[];
  /** Patterns of "sym" paths to leave out; behind "**" and a slash: of the last component alone. */
  readonly ignore: readonly string[];
  /** Where images for an Orin have newer libraries of CUDA, if not at the usual place. */
  readonly compatRoot: string | undefined;
  /** A discrete GPU beside the chip's own is not looked for. */
  readonly oneDevice?: boolean;
}

export interface CsvOptions extends GenerateOptions {
  readonly csv: CsvSources;
  readonly warn?: (message: string) => void;
}

/** Files of a directory, in the order of their names. None where it is not there. */
export function csvFiles(dir: string): string[] {
  if (!existsSync(dir)) return [];
  return readdirSync(dir, { withFileTypes: true })
    .filter((entry) => !entry.isDirectory() && entry.name !== ".csv" && entry.name.toLowerCase().endsWith(".csv"))
    .map(({ name }) => join(dir, name))
    .sort();
}

/** `nvml`: of systems whose driver has it. Throws Error for an id that is no GPU's. */
export function generateCsv(nvml: Nvml | undefined, options: CsvOptions): CdiSpec {
  const paths = readPaths(options.csv);
  const nodes = found(options.devRoot, paths.dev);
  const spec = tidy({
    cdiVersion: CURRENT_VERSION,
    kind: options.kind,
    devices: (several(nvml, options) ? tegraGpus(nvml, nodes, options) : undefined) ?? onlyGpu(nodes, options),
    containerEdits: commonEdits(nvml, paths, options),
  });
  return options.all ? withAll(spec) : spec;
}

function several(nvml: Nvml | undefined, { csv }: CsvOptions): nvml is Nvml {
  return nvml !== undefined && csv.oneDevice !== true && nvml.gpus().length > 1;
}

/** Of NVML's UUID it has none. */
function onlyGpu(nodes: readonly string[], { devRoot, ids, names }: CsvOptions): CdiDevice[] {
  const unknown = ids.find((id) => id !== "all" && id !== "0");
  if (unknown !== undefined)
    throw new Error(`unsupported device id "${unknown}": the GPU of this machine is 0, or all`);
  const own = { index: "0", "type-index": "gpu0", uuid: undefined };
  const named = NAME_STRATEGIES.filter((name) => names.includes(name)).flatMap((name) => own[name] ?? []);
  if (named.length === 0)
    throw new Error("--device-name-strategy uuid: the GPU of this machine has no UUID, name it by its index");
  const containerEdits = nodeEdits(devRoot, nodes);
  return named.map((name) => ({ name, containerEdits }));
}

function commonEdits(nvml: Nvml | undefined, paths: Paths, options: CsvOptions): ContainerEdits {
  const { driverRoot: root, hooks, librarySearchPaths: searchPaths } = options;
  const dirs = mountsBelow(
    root,
    found(root, paths.dir, (path) => statSync(path).isDirectory()),
  );
  const libraries = mountsBelow(root, targets(root, paths.lib, searchPaths));
  const links = mountsBelow(root, targets(root, paths.sym, searchPaths));
  const mounts = [...dirs, ...libraries, ...links, ...releaseMount()];
  return {
    env: ["NVIDIA_VISIBLE_DEVICES=void"],
    mounts,
    hooks: [
      ...linkHook(hooks, libraryLinks(libraries)),
      ...linkHook(
        hooks,
        paths.sym.flatMap((path) => chain(root, path)),
      ),
      ...compatHook(nvml, options),
      ...cacheHook(hooks, mounts, options.ldconfigPath),
    ],
  };
}

/** Makes newer libraries of an image usable; none where nobody knows which CUDA the driver has. */
function compatHook(nvml: Nvml | undefined, { hooks, csv }: CsvOptions) {
  if (nvml === undefined) return [];
  const isOrin = nvml.gpus().some((gpu) => nvml.name(gpu).includes("Orin (nvgpu)"));
  const place = isOrin ? [`--cuda-compat-container-root=${csv.compatRoot || ORIN_COMPAT_ROOT}`] : [];
  return hooks("enable-cuda-compat", [`--host-cuda-version=${nvml.cudaVersion()}`, ...place]);
}

/** Lines that are none of the four are comments. Throws the error of a file that cannot be read. */
function readPaths({ files, ignore }: CsvSources): Paths {
  const paths: Paths = { dev: [], dir: [], lib: [], sym: [] };
  const lines = files.filter((file) => existsSync(file)).flatMap((file) => readFileSync(file, "utf8").split("\n"));
  for (const line of lines) {
    const comma = line.indexOf(",");
    const type = TYPES.find((name) => comma >= 0 && name === line.slice(0, comma).trim());
    const path = line.slice(comma + 1).trim();
    if (type !== undefined && path !== "" && !(type === "sym" && isIgnored(path, ignore))) paths[type].push(path);
  }
  return paths;
}

function isIgnored(path: string, patterns: readonly string[]): boolean {
  return patterns.some((pattern) =>
    pattern.startsWith("**/") ? matchesGlob(basename(path), pattern.slice(3)) : matchesGlob(path, pattern),
  );
}

/** Paths without the root. */
function found(root: string, patterns: readonly string[], fits: (path: string) => boolean = () => true): string[] {
  const paths = patterns.flatMap((pattern) => globSync(join(root || "/", pattern)).sort()).filter(fits);
  return [...new Set(paths)].map((path) => path.slice(root.length));
}

/** What the paths are links to in the end. `searchPaths`: directories of the root to look in first. */
function targets(root: string, patterns: readonly string[], searchPaths: readonly string[] = []): string[] {
  const places = patterns.flatMap((pattern) => [...searchPaths, "/"].map((dir) => join(dir, pattern)));
  const paths = found(root, places).flatMap((path) => {
    const whole = `${root}${path}`;
    return existsSync(whole) ? [realpathSync(whole)] : [];
  });
  return [...new Set(paths)].map((path) =>
    root !== "" && path.startsWith(`${root}/`) ? path.slice(root.length) : path,
  );
}

/** Which release this is: always of the machine itself. */
function releaseMount(): CdiMount[] {
  return existsSync("/etc/nv_tegra_release") ? mountsBelow("", ["/etc/nv_tegra_release"]) : [];
}

const MAX_LINKS = 40;

/** A link and those that it leads to, each as "target::link". */
function chain(root: string, path: string, left = MAX_LINKS): string[] {
  const whole = join(root || "/", path);
  if (left === 0 || lstatSync(whole, { throwIfNoEntry: false })?.isSymbolicLink() !== true) return [];
  const target = readlinkSync(whole);
  return [`${target}::${path}`, ...chain(root, resolve(dirname(path), target), left - 1)];
}
