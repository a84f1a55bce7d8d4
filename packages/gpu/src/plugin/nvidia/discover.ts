/** What GPUs this machine has, and by what means that is known. */
import { Driver } from "../../generate/driver.ts";
import { type Platform, platformOf } from "../../generate/platform.ts";
import { isWsl } from "../../generate/wsl.ts";
import { Nvml } from "../../nvml/library.ts";
import { NVML_NAME } from "../../nvml/name.ts";
import { type Gpu, inventory, type Inventory } from "./inventory.ts";
import type { Flags, NvidiaSettings } from "./settings.ts";

type Roots = Pick<Flags, "containerDriverRoot" | "nvidiaDriverRoot">;

/** Where the driver is for this process: a container has it mounted. Without a slash at its end. */
export function driverRoot({ containerDriverRoot, nvidiaDriverRoot }: Roots): string {
  const [mounted, own] = [containerDriverRoot, nvidiaDriverRoot].map((root) => root.replace(/\/+$/, ""));
  return mounted !== undefined && Driver.findNvml(mounted) !== undefined ? mounted : (own ?? "");
}

/** NVML, by its path where that is known. */
export const nvmlLibrary = (roots: Roots): string => Driver.findNvml(driverRoot(roots)) ?? NVML_NAME;

/** Throws NvmlError, and Error where NVML cannot be loaded, or CDI is wanted on a system that it is not for. */
export function discover({ flags }: NvidiaSettings, library: string): Inventory {
  const root = driverRoot(flags);
  const platform = platformBy(flags.deviceDiscoveryStrategy, root);
  if (platform === "csv") return tegra(flags);
  using nvml = new Nvml(library);
  // Windows has one node for all its GPUs.
  if (platform === "wsl") return { ...single({ uuid: "all", index: "all", paths: ["/dev/dxg"] }), platform };
  return inventory(nvml);
}

function platformBy(strategy: Flags["deviceDiscoveryStrategy"], root: string): Platform {
  if (strategy === "auto") return platformOf(root);
  return strategy === "tegra" ? "csv" : isWsl(root) ? "wsl" : "nvml";
}

function tegra({ deviceListStrategy }: Flags): Inventory {
  if (deviceListStrategy.some((strategy) => strategy.startsWith("cdi-")))
    throw new Error("CDI --device-list-strategy options are only supported on NVML-based systems");
  return { ...single({ uuid: "tegra", index: "0", paths: [] }), platform: "tegra" };
}

function single(own: Pick<Gpu, "uuid" | "index" | "paths">): Omit<Inventory, "platform"> {
  const gpu = { ...own, numaNodes: [], profile: undefined, memory: 0, compute: "0.0", parent: undefined };
  return { gpus: [gpu], divided: new Set(), scores: new Map() };
}
