/** What every container gets with any of the devices: the driver's files, the environment and the hooks that go with them. */
import type { ContainerEdits } from "@berth/cdi/injection";
import type { Driver } from "./driver.ts";
import { cacheHook, graphicsLinks, type HookMaker, libraryLinks, linkHook } from "./hooks.ts";

export interface SpecOptions {
  readonly driverRoot: string;
  /** Where device nodes are, if not below the driver's root. */
  readonly devRoot: string;
  readonly kind: string;
  readonly hooks: HookMaker;
  readonly ldconfigPath: string | undefined;
  /** Directories where configuration is looked for in place of the usual ones, whatever the driver's root. */
  readonly configSearchPaths?: readonly string[];
  /** Directories of the machine where libraries are looked for in place of the usual ones. */
  readonly librarySearchPaths?: readonly string[];
  /** The sockets of the driver's daemons are left out. */
  readonly withoutSockets?: boolean;
  /** Libraries beside the driver's own, which other packages have too, are mounted as well. */
  readonly withExplicitLibraries?: boolean;
}

/** The driver without graphics. */
export function driverEdits(driver: Driver, options: SpecOptions): ContainerEdits {
  const { hooks, ldconfigPath, withoutSockets } = options;
  const libraries = [...driver.libraries(), ...(options.withExplicitLibraries ? driver.explicitLibraries() : [])];
  return {
    env: [`NVIDIA_CTK_LIBCUDA_DIR=${driver.libraryDirs.join(":")}`, "NVIDIA_VISIBLE_DEVICES=void"],
    mounts: [...libraries, ...driver.files(), ...(withoutSockets ? [] : driver.sockets())],
    hooks: [
      ...linkHook(hooks, libraryLinks(libraries)),
      ...hooks("enable-cuda-compat", [`--host-driver-version=${driver.version}`]),
      ...cacheHook(hooks, libraries, ldconfigPath),
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
