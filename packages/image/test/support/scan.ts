/** Trees as data, to be compared: what scan.py says of a directory, of an image, or of a root file system. */
import { execFileSync, spawnSync } from "node:child_process";
import type { TestContext } from "node:test";
import type { Rootfs } from "../../src/types.ts";
import { scratch } from "./store.ts";

const SCAN = new URL("./scan.py", import.meta.url).pathname;

export type Tree = Record<string, Record<string, unknown>>;

export function missingPrograms(...programs: readonly string[]): string | undefined {
  const missing = programs.filter((program) => spawnSync("sh", ["-c", `command -v ${program}`]).status !== 0);
  return missing.length > 0 ? `not installed: ${missing.join(", ")}` : undefined;
}

export function scan(directory: string): Tree {
  return parse(execFileSync("python3", [SCAN, directory], { encoding: "utf8", maxBuffer: 1 << 28 }));
}

/** Mounts the root file system where only this one process sees it. */
export function scanRootfs(t: TestContext, rootfs: Rootfs): Tree {
  if (rootfs.kind === "path") return scan(rootfs.path);
  const { lowers, upper, work } = rootfs;
  const options = `lowerdir=${lowers.join(":")},upperdir=${upper},workdir=${work}`;
  return scanMount(t, ["-t", "overlay", "-o", options, "overlay"]);
}

export function scanImage(t: TestContext, image: string): Tree {
  return scanMount(t, ["-t", "erofs", "-o", "ro", image]);
}

function scanMount(t: TestContext, mount: readonly string[]): Tree {
  const target = scratch(t);
  const script = 'scan=$1; shift; mount "$@" && exec python3 "$scan" "$(eval echo \\"\\${$#}\\")"';
  return parse(
    execFileSync("unshare", ["-m", "sh", "-c", script, "sh", SCAN, ...mount, target], {
      encoding: "utf8",
      maxBuffer: 1 << 28,
    }),
  );
}

/** A file with several links of which one is seen is like a file with one. */
function parse(text: string): Tree {
  const tree = JSON.parse(text) as Tree;
  const names = Map.groupBy(Object.entries(tree), ([path, entry]) => entry["same_as"] ?? path);
  for (const group of names.values()) {
    const [only] = group;
    if (group.length === 1 && only !== undefined) delete only[1]["same_as"];
  }
  return tree;
}
