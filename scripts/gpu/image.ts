/** An image for programs of this machine: they, the libraries that they and the driver's libraries load, and a shell. */
import { readFileSync, realpathSync } from "node:fs";
import { writeFile } from "node:fs/promises";
import { basename, dirname } from "node:path";
import { file, imageArchive } from "../busybox-image.ts";
import { run } from "./trial.ts";

export const IMAGE = "localhost/berth-try-gpu:latest";
/** Of the C library, which the driver's libraries load; older ones have them apart. */
const LIBRARIES = ["libm.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1", "libgcc_s.so.1"];
const TOOLS = ["sh", "ls", "cat"];

/** Writes the archive; `programs`: of the machine, which come to /usr/local/bin. Throws Error naming what is not there. */
export async function writeImage(archive: string, programs: readonly string[]): Promise<void> {
  const tools = await Promise.all(TOOLS.map((name) => located(name)));
  const needed = await Promise.all([...tools, ...programs].map((path) => librariesOf(path)));
  const [loaded = []] = needed;
  const dir = dirname(loaded.find((path) => basename(path).startsWith("libc.so")) ?? "/lib/");
  const libraries = [...new Set([...needed.flat(), ...LIBRARIES.map((name) => `${dir}/${name}`)])].filter(isThere);
  const files = [
    ...libraries.map((path) => entry(path, path)),
    ...tools.map((path) => entry(path, `/bin/${basename(path)}`)),
    ...programs.map((path) => entry(path, `/usr/local/bin/${basename(path)}`)),
  ];
  const dirs = [
    "dev/",
    "etc/",
    "proc/",
    "run/",
    "sys/",
    "tmp/",
    "usr/",
    "usr/bin/",
    ...files.flatMap(({ path }) => parents(path)),
  ];
  const image = imageArchive(IMAGE, [...[...new Set(dirs)].map((path) => ({ path, mode: 0o755 })), ...files], {
    Cmd: ["/bin/sh"],
  });
  await writeFile(archive, image);
}

const entry = (from: string, to: string) => file(to.slice(1), readFileSync(realpathSync(from)), 0o755);
const parents = (path: string): string[] =>
  path
    .split("/")
    .slice(0, -1)
    .map((_, index, parts) => `${parts.slice(0, index + 1).join("/")}/`);

function isThere(path: string): boolean {
  try {
    return realpathSync(path) !== "";
  } catch {
    return false;
  }
}

async function located(name: string): Promise<string> {
  const { status, out } = await run(["sh", "-c", `command -v ${name}`]);
  if (status !== 0) throw new Error(`${name} is not installed`);
  return out.trim();
}

/** With the loader, by ldd(1). None for a static program. */
async function librariesOf(program: string): Promise<string[]> {
  const { out } = await run(["ldd", program]);
  return out.split("\n").flatMap((line) => /^\s+(?:\S+ => )?(\/\S+) \(0x/.exec(line)?.[1] ?? []);
}
