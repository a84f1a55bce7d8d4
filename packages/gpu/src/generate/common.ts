/** What every container gets with any of the devices: the driver's files, the environment and the hooks that go with them. */
import type { ContainerEdits } from "@berth/cdi";
import type { Driver } from "./driver.ts";
import { graphicsLinks, type HookMaker, libraryFolders, libraryLinks, linkHook } from "./hooks.ts";

export interface SpecOptions {
  readonly driverRoot: string;
  /** Where device nodes are, if not below the driver's root. */
  readonly devRoot: string;
  readonly kind: string;
  readonly hooks: HookMaker;
  readonly ldconfigPath: string | undefined;
  /** Directories where configuration is looked for in place of the usual ones, whatever the driver's root. */
  readonly configSearchPaths?: readonly string[];
  /** The sockets of the driver's daemons are left out. */
  readonly withoutSockets?: boolean;
}

/** The driver without graphics. */
export function driverEdits(driver: Driver, options: SpecOptions): ContainerEdits {
  const { hooks, ldconfigPath, withoutSockets } = options;
  const libraries = driver.libraries();
  const folders = libraryFolders(libraries).flatMap((folder) => ["--folder", folder]);
  const ldconfig = ldconfigPath === undefined ? [] : ["--ldconfig-path", ldconfigPath];
  return {
    env: [`NVIDIA_CTK_LIBCUDA_DIR=${driver.libraryDirs.join(":")}`, "NVIDIA_VISIBLE_DEVICES=void"],
    mounts: [...libraries, ...driver.files(), ...(withoutSockets ? [] : driver.sockets())],
    hooks: [
      ...linkHook(hooks, libraryLinks(libraries)),
      ...hooks("enable-cuda-compat", [`--host-driver-version=${driver.version}`]),
      ...hooks("update-ldcache", [...ldconfig, ...folders]),
      ...hooks("disable-device-node-modification", []),
    ],
  };
}

export function graphicsEdits(driver: Driver, { hooks, configSearchPaths }: SpecOptions): ContainerEdits {
  const graphics = driver.graphics();
  // The allocator is among the driver's libraries; what links to it is for graphics.
  const allocator = driver
    .libraries()
    .filter(({ containerPath }) => containerPath.includes("/libnvidia-allocator.so."));
  return {
    mounts: [...graphics, ...driver.graphicsFiles(configSearchPaths)],
    hooks: linkHook(hooks, graphicsLinks([...allocator, ...graphics], driver.version)),
  };
}
