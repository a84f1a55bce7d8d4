/** nvidia-container-runtime's modes, and what "auto" comes to. */
import { isQualifiedName } from "@berth/cdi/injection";
import { platformOf } from "../generate/platform.ts";
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
  return platformOf(driverRoot) === "csv" ? "csv" : "jit-cdi";
}
