/**
 * Makes a directory of .build for each shim: its sources as one file, and what V8 makes of them. Does nothing when all is up to date.
 * Where it is missing or older than a source, the shim runs from its sources: it starts in three times the time.
 *
 *   node packages/shim/bundle/build.ts
 */
import { spawnSync } from "node:child_process";
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Plugin } from "esbuild";
import { isFresh, MANIFEST, stampOf } from "@berth/kernel/stamps";
import { PROGRAM } from "./program.ts";

const root = join(import.meta.dirname, "../../..");
/** A machine takes too long to boot for a warm-up. */
const SHIMS = [
  {
    name: "containerd-shim-berth-v2",
    out: ".build/shim",
    entry: "packages/shim/src/server/main.ts",
    makesContainers: true,
  },
  {
    name: "containerd-shim-berth-vm-v2",
    out: ".build/vm-shim",
    entry: "packages/shim/src/vm/main.ts",
    makesContainers: false,
  },
];
const OWN = [
  ...["build.ts", "program.ts", "start.ts", "warm-up.ts"].map((name) => `packages/shim/bundle/${name}`),
  "packages/kernel/src/stamps.ts",
  "scripts/launch-shim.sh",
  "package-lock.json",
];

async function make({ name, out, entry, makesContainers }: (typeof SHIMS)[number]): Promise<void> {
  const bin = `bin/${name}`;
  mkdirSync(join(root, ".build"), { recursive: true });
  const fresh = mkdtempSync(join(root, `${out}-`));
  try {
    const sources = [...(await bundle(fresh, entry)), ...OWN, bin];
    writeFileSync(join(fresh, MANIFEST), JSON.stringify(sources.map((path) => [path, stampOf(root, path)])));
    chmodSync(fresh, 0o755);
    rmSync(join(root, out), { recursive: true, force: true });
    renameSync(fresh, join(root, out));
  } finally {
    rmSync(fresh, { recursive: true, force: true });
  }
  // In its place, and with the flags that it is started with: V8 takes no other's code.
  const which = [join(root, bin), join(root, out), ...(makesContainers ? ["--container"] : [])];
  const warmUp = [join(import.meta.dirname, "warm-up.ts"), ...which];
  const { status, stderr } = spawnSync(process.execPath, warmUp, { encoding: "utf8" });
  if (status !== 0) throw new Error(`warm-up.ts ended with status ${status}: ${stderr}`);
}

/** Returns the sources but those of other packages, which the lock file stands for. */
async function bundle(directory: string, entry: string): Promise<string[]> {
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
  const { metafile, outputFiles } = await build({
    ...common,
    entryPoints: [entry],
    external: ["koffi"],
    plugins: [sourcePlaces],
    // A script has no way to import; what is external is required.
    supported: { "dynamic-import": false },
    metafile: true,
    write: false,
  });
  const code = outputFiles[0]?.text ?? "";
  writeFileSync(join(directory, PROGRAM), `(function (require, sourcePlace) { const module = {}; ${code}\n})`);
  await build({
    ...common,
    entryPoints: ["packages/shim/bundle/start.ts"],
    define: { "import.meta.dirname": "__dirname", SOURCE: JSON.stringify(join("../..", entry)) },
    outfile: join(directory, "main.cjs"),
  });
  return Object.keys(metafile.inputs).filter((path) => path.startsWith("packages/"));
}

/** Files beside a source are found from where the source is. */
const sourcePlaces: Plugin = {
  name: "source-places",
  setup(build) {
    build.onLoad({ filter: /\/packages\/[^/]+\/src\/.*\.ts$/ }, ({ path }) => {
      const source = JSON.stringify(path.slice(root.length + 1));
      const contents = readFileSync(path, "utf8")
        .replaceAll("import.meta.dirname", `sourcePlace(${source}).directory`)
        .replaceAll("import.meta.url", `sourcePlace(${source}).url`);
      const place = "{ readonly directory: string; readonly url: string }";
      return { contents: `declare const sourcePlace: (path: string) => ${place};\n${contents}`, loader: "ts" };
    });
  },
};

for (const shim of SHIMS) if (!isFresh(root, join(root, shim.out))) await make(shim);
