/** monitor: prints what the directories hold, and again after each change, until it is interrupted. */
import { once } from "node:events";
import type { Registry } from "../registry.ts";
import type { CommandContext } from "./context.ts";
import { classes, type Details, devices, specs, vendors } from "./lists.ts";

export async function monitor(context: CommandContext, aspects: readonly string[], details: Details): Promise<void> {
  const show = (registry: Registry): void => {
    for (const aspect of aspects.length > 0 ? aspects : ["all"]) context.print(shown(registry, aspect, details));
  };
  const registry = await context.registry(show);
  // The watch itself keeps no process alive.
  const alive = setInterval(() => {}, 2 ** 30);
  try {
    for (const dir of registry.dirErrors.keys())
      context.io.stderr.write(`WARNING: CDI Spec directory ${dir} does not exist: waiting for it\n`);
    show(registry);
    await Promise.race([once(process, "SIGINT"), once(process, "SIGTERM")]);
  } finally {
    clearInterval(alive);
    registry.close();
  }
}

function shown(registry: Registry, aspect: string, details: Details): string {
  switch (aspect) {
    case "vendors":
    case "vendor":
      return vendors(registry);
    case "classes":
    case "class":
      return classes(registry);
    case "specs":
    case "spec":
      return specs(registry, details);
    case "devices":
    case "device":
      return devices(registry, details);
    case "all":
      return vendors(registry) + classes(registry) + specs(registry, details) + devices(registry, details);
    default:
      return `Unrecognized CDI aspect/object ${JSON.stringify(aspect)}... ignoring it\n`;
  }
}
