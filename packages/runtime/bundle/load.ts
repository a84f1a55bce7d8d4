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
}

type Module = (require: NodeJS.Require, moduleUrl: string) => Pick<Bundle, "run">;

/** `require`: of a module that finds berth's dependencies. Code of another V8, or of other flags, is passed over by V8. */
export function loadBundle(directory: string, require: NodeJS.Require): Bundle {
  const filename = join(directory, MODULE);
  const compiled = join(directory, COMPILED);
  const cachedData = existsSync(compiled) ? readFileSync(compiled) : undefined;
  // esbuild writes nothing but ASCII.
  const script = new Script(readFileSync(filename, "latin1"), { filename, ...(cachedData && { cachedData }) });
  // Files beside the sources are found from where those are.
  const source = join(directory, "../../packages/runtime/src/command/run.ts");
  return { script, run: (script.runInThisContext() as Module)(require, pathToFileURL(source).href).run };
}
