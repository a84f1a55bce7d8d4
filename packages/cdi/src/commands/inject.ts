/** inject and resolve: devices put into an OCI configuration. */
import { readFile } from "node:fs/promises";
import type { oci } from "@berth/spec";
import { parse } from "yaml";
import { UnresolvedError } from "../errors.ts";
import { compileGlob } from "../glob.ts";
import { isQualifiedName } from "../names.ts";
import type { Registry } from "../registry.ts";
import { type CommandContext, Failure } from "./context.ts";
import { chooseFormat, formatObject, orderedSpec } from "./format.ts";

/** Devices whose names match one of `patterns`, in the order of their names. */
export async function inject(
  context: CommandContext,
  file: string | undefined,
  patterns: readonly string[],
  output: string,
): Promise<void> {
  if (file === undefined || patterns.length === 0) throw new Failure("OCI Spec argument and devices expected");
  const spec = await readOciSpec(context, file);
  const globs = patterns.map(compiled);
  const registry = await context.registry();
  const names = registry.devices().filter((name) => globs.some((glob) => glob.test(name)));
  const next = await injected(context, registry, spec, names, "OCI device injection failed");
  context.print(`Updated OCI Spec:\n${formatObject(2, orderedSpec(next), chooseFormat(output))}`);
}

function compiled(pattern: string): RegExp {
  try {
    return compileGlob(pattern);
  } catch (error) {
    throw new Failure(`failed to match pattern ${(error as Error).message}`, { cause: error });
  }
}

/** The devices that a configuration names as if they were paths: linux.devices[].path "vendor.com/class=name". */
export async function resolve(context: CommandContext, files: readonly string[], output: string): Promise<void> {
  if (files.length === 0) throw new Failure("OCI Spec argument(s) expected");
  const registry = await context.registry();
  for (const file of files) {
    const spec = await readOciSpec(context, file);
    const listed = spec.linux?.devices ?? [];
    const names = listed.map(({ path }) => path).filter(isQualifiedName);
    const plain = { ...spec, linux: { ...spec.linux, devices: listed.filter(({ path }) => !isQualifiedName(path)) } };
    const failure = `failed to resolve devices for OCI Spec ${JSON.stringify(file)}`;
    const next = await injected(context, registry, names.length > 0 ? plain : spec, names, failure);
    context.print(formatObject(2, orderedSpec(next), chooseFormat(output, file)));
  }
}

async function injected(
  context: CommandContext,
  registry: Registry,
  spec: oci.Spec,
  names: readonly string[],
  failure: string,
): Promise<oci.Spec> {
  try {
    return await registry.inject(spec, names);
  } catch (error) {
    if (error instanceof UnresolvedError) {
      const lines = error.devices.map((device, index) => `  ${index}. ${device}\n`);
      context.print(`Unresolved CDI devices:\n${lines.join("")}`);
    }
    throw new Failure(`${failure}: ${(error as Error).message}`, { cause: error });
  }
}

async function readOciSpec({ io }: CommandContext, file: string): Promise<oci.Spec> {
  const quoted = JSON.stringify(file);
  let text: string;
  try {
    text = file === "-" ? await readAll(io.stdin) : await readFile(file, "utf8");
  } catch (error) {
    throw new Failure(`failed to read OCI Spec (${quoted}): ${(error as Error).message}`, { cause: error });
  }
  try {
    const spec: unknown = parse(text);
    if (typeof spec !== "object" || spec === null || Array.isArray(spec)) throw new Error("is not a map of fields");
    return spec as oci.Spec;
  } catch (error) {
    throw new Failure(`failed to parse OCI Spec (${quoted}): ${(error as Error).message}`, { cause: error });
  }
}

async function readAll(input: AsyncIterable<Buffer | string>): Promise<string> {
  const chunks: Buffer[] = [];
  for await (const chunk of input) chunks.push(Buffer.from(chunk));
  return Buffer.concat(chunks).toString("utf8");
}
