/** The bundle, with the code that V8 made of it when it was built: to parse it anew takes longer than to run it. */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { Script } from "node:vm";

export const MODULE = "berth-runc.js";
export const COMPILED = "berth-runc.code";

export interface Bundle {
  readonly script: Script;
  readonly run: (argv: readonly string[]) => Promise<number>;
  readonly main: (argv: readonly string[]) => Promise<void>;
}

type Module = (require: (name: string) => unknown, moduleUrl: string) => Omit<Bundle, "script">;

/** Node has loaded these for itself by now. */
const LOADED = new Set(["node:fs", "node:path"]);

/**
 * Node's other modules are loaded at the first use of one of their exports: what imports them is in the bundle for some command, and
 * node:crypto alone takes as long as the rest of most.
 */
function lazily(require: NodeJS.Require): (name: string) => unknown {
  return (name) =>
    name.startsWith("node:") && !LOADED.has(name)
      ? new Proxy({}, { get: (_, key) => (require(name) as Record<string | symbol, unknown>)[key] })
      : require(name);
}

/** `require`: of a module that finds berth's dependencies. Code of another V8, or of other flags, is passed over by V8. */
export function loadBundle(directory: string, require: NodeJS.Require): Bundle {
  const filename = join(directory, MODULE);
  const compiled = join(directory, COMPILED);
  const cachedData = existsSync(compiled) ? readFileSync(compiled) : undefined;
  // esbuild writes nothing but ASCII.
  const script = new Script(readFileSync(filename, "latin1"), { filename, ...(cachedData && { cachedData }) });
  // Files beside the sources are found from where those are.
  const source = join(directory, "../../packages/runtime/src/command/run.ts");
  return { script, ...(script.runInThisContext() as Module)(lazily(require), pathToFileURL(source).href) };
}
