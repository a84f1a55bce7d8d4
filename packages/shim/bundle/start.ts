/** A shim's bundle, with the code that V8 made of it when it was built; or its sources, where these are newer. */
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { Script } from "node:vm";
import { isFresh } from "@berth/kernel/stamps";
import { COMPILED, PROGRAM } from "./program.ts";

/** Of the entry, relative to the bundle's directory: set by build.ts. */
declare const SOURCE: string;

interface Place {
  readonly directory: string;
  readonly url: string;
}
type Program = (require: (name: string) => unknown, sourcePlace: (path: string) => Place) => void;

const here = import.meta.dirname;
const root = join(here, "../..");

/** Node has loaded these for itself by now. */
const LOADED = new Set(["node:fs", "node:path"]);

/** Node's other modules are loaded at the first use of one of their exports: a start needs few of those that serving does. */
function lazily(require: NodeJS.Require): (name: string) => unknown {
  return (name) =>
    name.startsWith("node:") && !LOADED.has(name)
      ? new Proxy({}, { get: (_, key) => (require(name) as Record<string | symbol, unknown>)[key] })
      : require(name);
}

function runBundle(): void {
  const filename = join(here, PROGRAM);
  const compiled = join(here, COMPILED);
  const cachedData = existsSync(compiled) ? readFileSync(compiled) : undefined;
  // esbuild writes nothing but ASCII.
  const script = new Script(readFileSync(filename, "latin1"), { filename, ...(cachedData && { cachedData }) });
  const kept = process.env["BERTH_SHIM_KEEPS_CODE"];
  if (kept !== undefined) process.on("exit", () => writeFileSync(kept, script.createCachedData()));
  const place = (path: string): Place => {
    const file = join(root, path);
    return { directory: dirname(file), url: new URL(file, "file:").href };
  };
  (script.runInThisContext() as Program)(lazily(createRequire(join(here, "main.cjs"))), place);
}

if (isFresh(root, here)) runBundle();
else void import(join(here, SOURCE));
