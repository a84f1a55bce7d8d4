/** Directories of specifications, and the simplest ones to put there. */
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { TestContext } from "node:test";
import type { ContainerEdits } from "../src/types.ts";

export async function tempDir(t: TestContext): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), "berth-cdi-"));
  t.after(() => rm(dir, { recursive: true, force: true }));
  return dir;
}

/** A specification of `kind` whose devices each set a variable, as JSON. */
export function specText(kind: string, names: readonly string[], edits?: ContainerEdits): string {
  const devices = names.map((name) => ({ name, containerEdits: { env: [`DEVICE_${name}=1`] } }));
  return JSON.stringify({ cdiVersion: "1.1.0", kind, devices, ...(edits && { containerEdits: edits }) });
}

export async function put(dir: string, name: string, text: string): Promise<string> {
  const path = join(dir, name);
  await writeFile(path, text);
  return path;
}
