/** Writing specifications: valid ones only, whole or not at all. */
import { randomBytes } from "node:crypto";
import { mkdir, open, rename, rm } from "node:fs/promises";
import { basename, extname, join } from "node:path";
import { CdiError, fieldName } from "./errors.ts";
import { loadedSpec, type SpecValidator } from "./files.ts";
import { splitKind } from "./names.ts";
import type { CdiSpec } from "./types.ts";
import { checkSpec } from "./validate.ts";
import { toYaml } from "./yaml.ts";

/** The name of a kind's specification, without directory and extension. Throws Error for what is no kind. */
export function specName(kind: string): string {
  const { vendor, class: deviceClass } = splitKind(kind);
  if (vendor === "") throw new Error(`invalid vendor/class ${JSON.stringify(kind)} in Spec`);
  return `${vendor}-${deviceClass}`;
}

/** The same for a specification that lives and ends with something else, such as a container, which `id` names. */
export function transientSpecName(kind: string, id: string): string {
  return `${specName(kind)}_${id.replaceAll("/", "_")}`;
}

/** As a file of that extension would hold it: ".json", or YAML. */
export function formatSpec(spec: CdiSpec, extension: string): string {
  return extension === ".json" ? JSON.stringify(withEdits(spec)) : `---\n${toYaml(spec)}`;
}

/** In JSON the reference always writes a specification's own edits, be they none. */
export function withEdits(spec: CdiSpec): CdiSpec {
  return { ...spec, containerEdits: spec.containerEdits ?? {} };
}

/** The path written. Throws CdiError when the specification is not valid, and the error of the file system. */
export async function writeSpec(dir: string, name: string, spec: CdiSpec, validator?: SpecValidator): Promise<string> {
  const path = specPath(dir, name);
  const problem = checkSpec(spec);
  if (problem) throw new CdiError({ file: path, device: problem.device, field: fieldName(problem.path) }, problem.what);
  loadedSpec(spec, path, 0, validator);
  await mkdir(dir, { recursive: true, mode: 0o755 });
  // Its name is none that is read, and it becomes the file in one step.
  const temporary = join(dir, `spec.${randomBytes(6).toString("hex")}.tmp`);
  try {
    await using file = await open(temporary, "wx", 0o644);
    await file.writeFile(formatSpec(spec, extname(path)));
    await file.sync();
    await rename(temporary, path);
  } catch (error) {
    await rm(temporary, { force: true });
    throw error;
  }
  return path;
}

export async function removeSpec(dir: string, name: string): Promise<void> {
  await rm(specPath(dir, name), { force: true });
}

function specPath(dir: string, name: string): string {
  if (name === "" || basename(name) !== name) throw new Error(`${JSON.stringify(name)} is not a file's name`);
  const extension = extname(name);
  return join(dir, extension === ".json" || extension === ".yaml" ? name : `${name}.yaml`);
}
