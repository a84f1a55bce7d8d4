/** A CDI specification for containers that manage the GPUs: every device node of the driver as one device, and no graphics. */
import { globSync } from "node:fs";
import { type CdiSpec, CURRENT_VERSION } from "@berth/cdi/injection";
import { driverEdits, type SpecOptions } from "./common.ts";
import type { HookMaker } from "./hooks.ts";
import { Driver } from "./driver.ts";
import { isOfOtherPart, nodeEdits } from "./nodes.ts";
import { tidy } from "./tidy.ts";

const PATTERNS = ["/dev/nvidia*", "/dev/nvidia-caps/nvidia-cap*", "/dev/nvidia-caps-imex-channels/channel*"];

/** NVML is not asked. Throws Error where there is no node, or no driver. */
export function generateManagement(options: SpecOptions): CdiSpec {
  const { devRoot } = options;
  const paths = PATTERNS.flatMap((pattern) => globSync(`${devRoot}${pattern}`))
    .filter((path) => !isOfOtherPart(path))
    .map((path) => path.slice(devRoot.length));
  const containerEdits = nodeEdits(devRoot, paths);
  if (containerEdits.deviceNodes?.length === 0) throw new Error(`no NVIDIA device nodes found below ${devRoot || "/"}`);
  return tidy({
    cdiVersion: CURRENT_VERSION,
    kind: options.kind,
    devices: [{ name: "all", containerEdits }],
    containerEdits: driverEdits(new Driver(options.driverRoot, undefined, options.librarySearchPaths), {
      ...options,
      hooks: allButNodes(options.hooks),
    }),
  });
}

/** Who manages GPUs may make their device nodes. */
function allButNodes(hooks: HookMaker): HookMaker {
  return (name, args) => (name === "disable-device-node-modification" ? [] : hooks(name, args));
}
