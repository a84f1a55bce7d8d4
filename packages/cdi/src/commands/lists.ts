/** The listings: vendors, classes, directories, devices, specifications. `monitor` prints the same. */
import { dirname } from "node:path";
import type { Registry } from "../registry.ts";
import type { ContainerEdits, LoadedDevice, LoadedSpec } from "../types.ts";
import { withEdits } from "../write.ts";
import { chooseFormat, formatObject } from "./format.ts";

export interface Details {
  readonly verbose: boolean;
  readonly output: string;
}

export function vendors(registry: Registry): string {
  const names = registry.vendors();
  if (names.length === 0) return "No CDI vendors found.\n";
  const lines = names.map(
    (name, index) => `  ${index}. ${JSON.stringify(name)} (${registry.specsOf(name).length} CDI Spec Files)\n`,
  );
  return `CDI vendors found:\n${lines.join("")}`;
}

export function classes(registry: Registry): string {
  const names = registry.classes();
  if (names.length === 0) return "No CDI device classes found.\n";
  const lines = names.map((name, index) => {
    const of = registry
      .vendors()
      .flatMap((vendor) => registry.specsOf(vendor).flatMap((s) => (s.class === name ? vendor : [])));
    return `  ${index}. ${name} (${of.length} vendors: ${of.join(", ")})\n`;
  });
  return `CDI device classes found:\n${lines.join("")}`;
}

export function dirs(registry: Registry): string {
  const lines = registry.dirs.flatMap((dir, priority) => {
    const errors = [...registry.errors].flatMap(([path, found]) => (dirname(path) === dir ? found : []));
    return [`  ${dir} (priority ${priority})\n`, ...errors.map((error) => `    - has error ${error.message}\n`)];
  });
  return `CDI Spec directories in use:\n${lines.join("")}`;
}

export function devices(registry: Registry, details: Details): string {
  const names = registry.devices();
  if (names.length === 0) return "No CDI devices found.\n";
  const lines = names.map((name, index) => {
    const device = registry.device(name);
    return details.verbose && device ? verboseDevice(device, details.output) : `  ${index}. ${name}\n`;
  });
  return `CDI devices found:\n${lines.join("")}`;
}

function verboseDevice({ qualifiedName, device, from }: LoadedDevice, output: string): string {
  const format = chooseFormat(output, from.path);
  const { containerEdits: edits = {} } = from.spec;
  const head = `  ${qualifiedName} (${from.path})\n${formatObject(4, device, format)}`;
  return hasEdits(edits) ? `${head}     global Spec containerEdits:\n${formatObject(6, edits, format)}` : head;
}

const hasEdits = (edits: ContainerEdits): boolean =>
  Object.values(edits).some((value) => (Array.isArray(value) ? value.length > 0 : value !== undefined));

/** `wanted` empty: of every vendor. */
export function specs(registry: Registry, details: Details, wanted: readonly string[] = []): string {
  const errors = specErrors(registry);
  const names = registry.vendors().filter((vendor) => wanted.length === 0 || wanted.includes(vendor));
  if (names.length === 0) return `No CDI Specs found.\n${errors}`;
  const found = names.map(
    (vendor) =>
      `Vendor ${vendor}:\n${registry
        .specsOf(vendor)
        .map((spec) => oneSpec(spec, details))
        .join("")}`,
  );
  return `CDI Specs found:\n${found.join("")}${errors}`;
}

function oneSpec({ spec, path }: LoadedSpec, { verbose, output }: Details): string {
  const format = chooseFormat(output);
  const shown = format === "json" ? withEdits(spec) : spec;
  return `  Spec File ${path}\n${verbose ? formatObject(4, shown, format) : ""}`;
}

function specErrors(registry: Registry): string {
  return [...registry.errors]
    .map(([path, errors]) => {
      const lines = errors.map((error, index) => `    ${index}. ${error.message}\n`);
      return `  ${path} has ${errors.length} errors:\n${lines.join("")}`;
    })
    .join("");
}
