/**
 * Makes .build/command of berth-runc's sources: one file of code, what V8 makes of it, and the outputs that never change. Does
 * nothing when all is up to date. Where it is missing or older than a source, berth-runc runs from the sources, and slower.
 *
 *   node packages/runtime/bundle/build.ts
 */
import { spawnSync } from "node:child_process";
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from "node:fs";
import { isAbsolute, join, relative } from "node:path";
import { MODULE } from "./load.ts";

const root = join(import.meta.dirname, "../../..");
const out = join(root, ".build/command");
/** Read by packages/native/command/decider.c: this version, Node, its flags, what `--version` prints, then files with size and time. */
const MANIFEST = "manifest";
const VERSION = "berth-runc 1";
/**
 * A command ends before its garbage would fill a larger young generation, and has nothing for V8's threads to do. Its strings are
 * hashed as they are in Node's own snapshot: to draw a new seed, and to rehash all by it, takes as long as to make a plan.
 */
const FLAGS = [
  "--disable-warning=ExperimentalWarning",
  "--min-semi-space-size=16",
  "--v8-pool-size=0",
  "--no-rehash-snapshot",
];
const OWN = ["build.ts", "load.ts", "start.ts", "warm-up.ts"].map((name) => `packages/runtime/bundle/${name}`);

async function make(): Promise<void> {
  mkdirSync(join(root, ".build"), { recursive: true });
  const fresh = mkdtempSync(join(root, ".build/command-"));
  try {
    const inputs = await bundle(fresh);
    node(join(import.meta.dirname, "warm-up.ts"), fresh);
    const main = join(fresh, "main.cjs");
    writeFileSync(join(fresh, "features.json"), node(main, "features"));
    const version = node(main, "--version").replace(/^berth-runc version /, "");
    const stamps = [...inputs, ...OWN, nodePath()].flatMap(stamp);
    writeFileSync(
      join(fresh, MANIFEST),
      [VERSION, nodePath(), FLAGS.join(" "), version, ...stamps].map((text) => `${text}\0`).join(""),
    );
    chmodSync(fresh, 0o755);
    rmSync(out, { recursive: true, force: true });
    renameSync(fresh, out);
  } finally {
    rmSync(fresh, { recursive: true, force: true });
  }
}

/** Returns the sources, relative to the checkout. */
async function bundle(directory: string): Promise<string[]> {
  const { build } = await import("esbuild");
  const common = {
    absWorkingDir: root,
    bundle: true,
    minify: true,
    platform: "node",
    format: "cjs",
    target: "node26",
    logLevel: "warning",
  } as const;
  const main = await build({
    ...common,
    entryPoints: ["packages/runtime/src/command/run.ts"],
    external: ["koffi", "node:*"],
    // A script has no way to import; what is external is required.
    supported: { "dynamic-import": false },
    define: { "import.meta.url": "moduleUrl" },
    metafile: true,
    write: false,
  });
  const code = main.outputFiles[0]?.text ?? "";
  writeFileSync(
    join(directory, MODULE),
    `(function (require, moduleUrl) { const module = { exports: {} }; ${code}\nreturn module.exports; })`,
  );
  await build({
    ...common,
    entryPoints: ["packages/runtime/bundle/start.ts"],
    define: { "import.meta.dirname": "__dirname" },
    outfile: join(directory, "main.cjs"),
  });
  return Object.keys(main.metafile.inputs);
}

/** Relative to the checkout where it is in it. */
function nodePath(): string {
  const path = relative(root, process.execPath);
  return path.startsWith("..") || isAbsolute(path) ? process.execPath : path;
}

function stamp(path: string): string[] {
  const { size, mtimeNs } = statSync(isAbsolute(path) ? path : join(root, path), { bigint: true });
  return [path, String(size), String(mtimeNs)];
}

function isUpToDate(): boolean {
  try {
    const fields = readFileSync(join(out, MANIFEST), "utf8").split("\0").slice(0, -1);
    if (fields[0] !== VERSION || fields[1] !== nodePath()) return false;
    for (let at = 4; at < fields.length; at += 3)
      if (stamp(fields[at] ?? "").join() !== fields.slice(at, at + 3).join()) return false;
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
    return false;
  }
}

/** Runs a program to its end; what it wrote. */
function node(...args: readonly string[]): string {
  const { status, stdout, stderr } = spawnSync(process.execPath, [...FLAGS, ...args], { encoding: "utf8" });
  if (status !== 0) throw new Error(`${args.join(" ")} ended with status ${status}: ${stderr}`);
  return stdout;
}

if (!isUpToDate()) await make();
