/**
 * Makes .build/device-plugin of the device plugin's sources: one file of code, and what V8 makes of it. Does nothing when all is up to
 * date. Where it is missing or older than a source, the plugin runs from the sources: it is registered in twice the time.
 *
 *   node packages/gpu/bundle/build.ts
 */
import { spawnSync } from "node:child_process";
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Plugin } from "esbuild";
import { isFresh, MANIFEST, stampOf } from "@berth/kernel/stamps";
import { PROGRAM } from "./program.ts";

const root = join(import.meta.dirname, "../../..");
const out = join(root, ".build/device-plugin");
const OWN = ["build.ts", "program.ts", "start.ts", "warm-up.ts"].map((name) => `packages/gpu/bundle/${name}`);

async function make(): Promise<void> {
  mkdirSync(join(root, ".build"), { recursive: true });
  const fresh = mkdtempSync(join(root, ".build/device-plugin-"));
  try {
    const sources = [...(await bundle(fresh)), ...OWN, "package-lock.json"];
    writeFileSync(join(fresh, MANIFEST), JSON.stringify(sources.map((path) => [path, stampOf(root, path)])));
    chmodSync(fresh, 0o755);
    rmSync(out, { recursive: true, force: true });
    renameSync(fresh, out);
  } finally {
    rmSync(fresh, { recursive: true, force: true });
  }
  // By its final name, under which Node keeps what V8 makes of it.
  const { status, stderr } = spawnSync(process.execPath, [join(import.meta.dirname, "warm-up.ts")], {
    encoding: "utf8",
  });
  if (status !== 0) throw new Error(`warm-up.ts ended with status ${status}: ${stderr}`);
}

/** Returns the sources but those of other packages, which the lock file stands for. */
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
  const { metafile } = await build({
    ...common,
    entryPoints: ["packages/gpu/src/device-plugin.ts"],
    external: ["koffi"],
    plugins: [sourceUrls],
    banner: {
      js: 'const sourceUrl = (path) => require("node:url").pathToFileURL(require("node:path").join(__dirname, "../..", path)).href;',
    },
    metafile: true,
    outfile: join(directory, PROGRAM),
  });
  await build({
    ...common,
    entryPoints: ["packages/gpu/bundle/start.ts"],
    define: { "import.meta.dirname": "__dirname" },
    outfile: join(directory, "main.cjs"),
  });
  return Object.keys(metafile.inputs).filter((path) => path.startsWith("packages/"));
}

/** Files beside a source, as a worker's, are found from where the source is. */
const sourceUrls: Plugin = {
  name: "source-urls",
  setup(build) {
    build.onLoad({ filter: /\/packages\/[^/]+\/src\/.*\.ts$/ }, ({ path }) => {
      const source = JSON.stringify(path.slice(root.length + 1));
      const contents = readFileSync(path, "utf8").replaceAll("import.meta.url", `sourceUrl(${source})`);
      return { contents: `declare const sourceUrl: (path: string) => string;\n${contents}`, loader: "ts" };
    });
  },
};

if (!isFresh(root, out)) await make();
