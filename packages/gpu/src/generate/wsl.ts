/** A CDI specification of the GPUs of a Windows machine, from its Linux subsystem (WSL 2): one device of them all. */
import { globSync, statSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { type CdiSpec, CURRENT_VERSION } from "@berth/cdi/injection";
import type { SpecOptions } from "./common.ts";
import { driverStores } from "../nvml/dxcore.ts";
import { Driver } from "./driver.ts";
import { cacheHook, linkHook } from "./hooks.ts";
import { mountsBelow } from "./mounts.ts";
import { nodeEdits } from "./nodes.ts";
import { tidy } from "./tidy.ts";

const LIBRARY_DIR = "/usr/lib/wsl/lib";
/** Where WSL shows Windows' store of drivers. */
const STORES = "/usr/lib/wsl/drivers";
const CORE = "libdxcore.so";
const CUDA = "libcuda.so.1.1";
const DRIVER_FILES = [
  CUDA,
  "libcuda_loader.so",
  "libnvidia-ptxjitcompiler.so.1",
  "libnvidia-ml.so.1",
  "libnvidia-ml_loader.so",
  "libnvdxgdmal.so.1",
  "nvcubins.bin",
  "nvidia-smi",
];

export function isWsl(root: string): boolean {
  return coreLibrary(root) !== undefined;
}

function coreLibrary(root: string): string | undefined {
  const own = `${root}${LIBRARY_DIR}/${CORE}`;
  return isFile(own) ? own : Driver.findLibrary(root, CORE);
}

/** `librarySearchPaths`: the directory of the driver, for want of a better way to know. Throws Error where there is none, or no telling which. */
export function generateWsl(options: SpecOptions): CdiSpec {
  const { driverRoot: root, devRoot, hooks, ldconfigPath } = options;
  const dir = options.librarySearchPaths?.[0] ?? storeInUse(root);
  const required = DRIVER_FILES.map((name) => join(dir, name)).filter((path) => isFile(`${root}${path}`));
  const more = ["*.so*", "*.bin", "*.dll"]
    .flatMap((pattern) => globSync(`${root}${dir}/${pattern}`).sort())
    .map((path) => path.slice(root.length))
    .filter((path) => !DRIVER_FILES.includes(basename(path)));
  const core = isFile(`${root}${LIBRARY_DIR}/${CORE}`) ? [`${LIBRARY_DIR}/${CORE}`] : [];
  const libraries = mountsBelow(root, [...required, ...core]);
  const smi = required.find((path) => basename(path) === "nvidia-smi");
  return tidy({
    cdiVersion: CURRENT_VERSION,
    kind: options.kind,
    devices: [{ name: "all", containerEdits: nodeEdits(devRoot, ["/dev/dxg"]) }],
    containerEdits: {
      env: ["NVIDIA_VISIBLE_DEVICES=void"],
      mounts: [...libraries, ...mountsBelow(root, more)],
      hooks: [
        ...linkHook(hooks, smi === undefined ? [] : [`${smi}::/usr/bin/nvidia-smi`]),
        ...cacheHook(hooks, libraries, ldconfigPath),
      ],
    },
  });
}

/** Windows knows which of its drivers its adapters use; a library that cannot ask it leaves it to what there is. */
function storeInUse(root: string): string {
  const library = coreLibrary(root);
  const stores = library === undefined ? [] : driverStores(library);
  return stores.find((dir) => isFile(`${root}${dir}/${CUDA}`)) ?? onlyStore(root);
}

function onlyStore(root: string): string {
  const stores = globSync(`${root}${STORES}/*/${CUDA}`).map((path) => dirname(path).slice(root.length));
  const [store, ...others] = stores.sort();
  if (store === undefined)
    throw new Error(`no ${STORES}/*/${CUDA} below ${root || "/"}: is NVIDIA's driver for WSL there?`);
  if (others.length > 0)
    throw new Error(
      `several drivers are in Windows' store: ${stores.join(", ")}; name the one in use by --library-search-path`,
    );
  return store;
}

function isFile(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false })?.isFile() === true;
}
