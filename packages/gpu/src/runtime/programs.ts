/** Programs that the runtime starts, or has hooks start: by their names in the configuration. */
import { accessSync, constants, statSync } from "node:fs";
import { isAbsolute, join } from "node:path";

/** Where programs are looked for when PATH does not say. */
const STANDARD_DIRS = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/** The first of `names` that is a program: a path, or found by PATH and then at the standard places. */
export function findProgram(names: readonly string[], path: string | undefined): string | undefined {
  const dirs = [...new Set([...(path ?? "").split(":").filter((dir) => isAbsolute(dir)), ...STANDARD_DIRS])];
  return names
    .flatMap((name) => (name.includes("/") ? [name] : dirs.map((dir) => join(dir, name))))
    .find((candidate) => isProgram(candidate));
}

function isProgram(path: string): boolean {
  if (statSync(path, { throwIfNoEntry: false })?.isFile() !== true) return false;
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "EACCES") return false;
    throw error;
  }
}

/** The hooks' program that specifications for one container name: a path as it is, a name by PATH, else berth's own. */
export function hookProgram(configured: string, path: string | undefined): string {
  return configuredProgram(configured, path) ?? new URL("../../../../.build/native/cdi-hook", import.meta.url).pathname;
}

/** The prestart hook of mode legacy, in the same way. */
export function prestartHook(configured: string, path: string | undefined): string {
  const own = new URL("../../../../bin/nvidia-container-runtime-hook", import.meta.url).pathname;
  return configuredProgram(configured, path) ?? own;
}

function configuredProgram(name: string, path: string | undefined): string | undefined {
  return isAbsolute(name) ? name : findProgram([name], path);
}
