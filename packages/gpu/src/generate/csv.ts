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
import { type CdiMount, type CdiSpec, type ContainerEdits, CURRENT_VERSION } from "@berth/cdi";
import { type SpecOptions } from "./common.ts";
import { MOUNT_OPTIONS } from "./driver.ts";
import { libraryFolders, libraryLinks, linkHook } from "./hooks.ts";
import { nodeEdits } from "./nodes.ts";
import { tidy } from "./tidy.ts";

export const CSV_DIR = "/etc/nvidia-container-runtime/host-files-for-container.d";
export const BASE_FILES = ["devices.csv", "drivers.csv", "l4t.csv"];
const TYPES = ["dev", "dir", "lib", "sym"] as const;
type Paths = Record<(typeof TYPES)[number], string[]>;

export interface CsvOptions extends SpecOptions {
  readonly files: readonly string[];
  /** Patterns of "sym" paths to leave out; behind "**" and a slash: of the last component alone. */
  readonly ignore: readonly string[];
  /** Names of the one device. */
  readonly names: readonly string[];
  readonly ids: readonly string[];
  /** Of the driver, as 12.2, for the hook that makes newer libraries of an image usable; unknown: no such hook. */
  readonly cudaVersion: string | undefined;
  /** Where an image has those, if not at the usual place. */
  readonly compatRoot: string | undefined;
}

/** Files of a directory, in the order of their names. None where it is not there. */
export function csvFiles(dir: string): string[] {
  if (!existsSync(dir)) return [];
  return readdirSync(dir, { withFileTypes: true })
    .filter((entry) => !entry.isDirectory() && entry.name !== ".csv" && entry.name.toLowerCase().endsWith(".csv"))
    .map(({ name }) => join(dir, name))
    .sort();
}

/** Throws Error for an id that is not the one GPU's. */
export function generateCsv(options: CsvOptions): CdiSpec {
  const unknown = options.ids.find((id) => id !== "all" && id !== "0");
  if (unknown !== undefined)
    throw new Error(`unsupported device id "${unknown}": the GPU of this machine is 0, or all`);
  const paths = readPaths(options.files, options.ignore);
  const containerEdits = nodeEdits(options.devRoot, found(options.devRoot, paths.dev));
  return tidy({
    cdiVersion: CURRENT_VERSION,
    kind: options.kind,
    devices: options.names.map((name) => ({ name, containerEdits })),
    containerEdits: commonEdits(paths, options),
  });
}

function commonEdits(paths: Paths, options: CsvOptions): ContainerEdits {
  const { driverRoot: root, hooks } = options;
  const dirs = mountsOf(
    root,
    found(root, paths.dir, (path) => statSync(path).isDirectory()),
  );
  const libraries = mountsOf(root, targets(root, paths.lib));
  const mounts = [...dirs, ...libraries, ...mountsOf(root, targets(root, paths.sym)), ...releaseMount()];
  const folders = libraryFolders(mounts).flatMap((folder) => ["--folder", folder]);
  const ldconfig = options.ldconfigPath === undefined ? [] : ["--ldconfig-path", options.ldconfigPath];
  return {
    env: ["NVIDIA_VISIBLE_DEVICES=void"],
    mounts,
    hooks: [
      ...linkHook(hooks, libraryLinks(libraries)),
      ...linkHook(
        hooks,
        paths.sym.flatMap((path) => chain(root, path)),
      ),
      ...compatHook(options),
      ...hooks("update-ldcache", [...ldconfig, ...folders]),
    ],
  };
}

function compatHook({ hooks, cudaVersion, compatRoot }: CsvOptions) {
  if (cudaVersion === undefined) return [];
  const place = compatRoot === undefined ? [] : [`--cuda-compat-container-root=${compatRoot}`];
  return hooks("enable-cuda-compat", [`--host-cuda-version=${cudaVersion}`, ...place]);
}

/** Lines that are none of the four are comments. Throws the error of a file that cannot be read. */
function readPaths(files: readonly string[], ignore: readonly string[]): Paths {
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

/** What the paths are links to in the end. */
function targets(root: string, patterns: readonly string[]): string[] {
  const paths = found(root, patterns).flatMap((path) => {
    const whole = `${root}${path}`;
    return existsSync(whole) ? [realpathSync(whole)] : [];
  });
  return [...new Set(paths)].map((path) =>
    root !== "" && path.startsWith(`${root}/`) ? path.slice(root.length) : path,
  );
}

function mountsOf(root: string, paths: readonly string[]): CdiMount[] {
  return paths.map((path) => ({ hostPath: `${root}${path}`, containerPath: path, options: MOUNT_OPTIONS }));
}

/** Which release this is: always of the machine itself. */
function releaseMount(): CdiMount[] {
  return existsSync("/etc/nv_tegra_release") ? mountsOf("", ["/etc/nv_tegra_release"]) : [];
}

const MAX_LINKS = 40;

/** A link and those that it leads to, each as "target::link". */
function chain(root: string, path: string, left = MAX_LINKS): string[] {
  const whole = join(root || "/", path);
  if (left === 0 || lstatSync(whole, { throwIfNoEntry: false })?.isSymbolicLink() !== true) return [];
  const target = readlinkSync(whole);
  return [`${target}::${path}`, ...chain(root, resolve(dirname(path), target), left - 1)];
}
