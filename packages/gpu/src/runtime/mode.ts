/** nvidia-container-runtime's modes, and what "auto" comes to. */
import { readFileSync, statSync } from "node:fs";
import { isQualifiedName } from "@berth/cdi";
import { Driver } from "../generate/driver.ts";
import type { Request } from "../toolkit/request.ts";

export const RUNTIME_MODES = ["legacy", "csv", "cdi", "jit-cdi"] as const;
export type RuntimeMode = (typeof RUNTIME_MODES)[number];

/** `configured`: of the configuration. Throws Error for what is none. */
export function runtimeMode(configured: string, request: Request, driverRoot: string): RuntimeMode {
  if (configured !== "auto") {
    const mode = RUNTIME_MODES.find((name) => name === configured);
    if (mode !== undefined) return mode;
    throw new Error(
      `nvidia-container-runtime.mode: invalid mode "${configured}", must be one of auto, ${RUNTIME_MODES.join(", ")}`,
    );
  }
  const devices = request.devices(true);
  if (devices.length > 0 && devices.every(isQualifiedName)) return "cdi";
  return isTegra(driverRoot) ? "csv" : "jit-cdi";
}

/** A system on a chip, whose driver NVML knows nothing of. */
export function isTegra(root: string): boolean {
  return hasTegraFiles(root) && Driver.findNvml(root) === undefined;
}

function hasTegraFiles(root: string): boolean {
  if (statSync(`${root}/etc/nv_tegra_release`, { throwIfNoEntry: false })?.isFile()) return true;
  const family = `${root}/sys/devices/soc0/family`;
  if (!statSync(family, { throwIfNoEntry: false })?.isFile()) return false;
  return readFileSync(family, "utf8").toLowerCase().startsWith("tegra");
}
