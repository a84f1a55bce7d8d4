/** Which fields each version of CDI brought, and so which version a specification has to declare (SPEC.md, "Released versions"). */
import type { CdiSpec, ContainerEdits } from "./types.ts";

/** Oldest first. */
export const CDI_VERSIONS = [
  "0.1.0",
  "0.2.0",
  "0.3.0",
  "0.4.0",
  "0.5.0",
  "0.6.0",
  "0.7.0",
  "0.8.0",
  "1.0.0",
  "1.1.0",
] as const;
export type CdiVersion = (typeof CDI_VERSIONS)[number];
export const CURRENT_VERSION: CdiVersion = "1.1.0";
const EARLIEST: CdiVersion = "0.3.0";

/** Newest first; versions that brought no field are not here. */
const REQUIRED_BY: readonly (readonly [CdiVersion, (spec: CdiSpec) => boolean])[] = [
  ["1.1.0", (spec) => editsOf(spec).some((edits) => filled(edits.netDevices) || hasNewRdt(edits))],
  ["0.7.0", (spec) => editsOf(spec).some((edits) => edits.intelRdt !== undefined || filled(edits.additionalGids))],
  ["0.6.0", (spec) => hasAnnotations(spec) || dottedClass(spec.kind)],
  ["0.5.0", (spec) => spec.devices.some(({ name }) => /^[0-9]/.test(name)) || editsOf(spec).some(hasHostPath)],
  ["0.4.0", (spec) => editsOf(spec).some((edits) => edits.mounts?.some((mount) => mount.type))],
];

/** The lowest version that has every field the specification uses. */
export function minimumVersion(spec: CdiSpec): CdiVersion {
  return REQUIRED_BY.find(([, needs]) => needs(spec))?.[0] ?? EARLIEST;
}

/** What is wrong with the version that `spec` declares. A leading "v" is allowed. */
export function versionProblem(spec: CdiSpec): string | undefined {
  const declared = spec.cdiVersion.replace(/^v/, "");
  const index = (CDI_VERSIONS as readonly string[]).indexOf(declared);
  if (index < 0) return `invalid version ${JSON.stringify(spec.cdiVersion)}`;
  const minimum = minimumVersion(spec);
  return index < CDI_VERSIONS.indexOf(minimum) ? `the spec version must be at least v${minimum}` : undefined;
}

const filled = (list: readonly unknown[] | undefined): boolean => list !== undefined && list.length > 0;
const hasHostPath = (edits: ContainerEdits): boolean => edits.deviceNodes?.some((node) => node.hostPath) === true;
const dottedClass = (kind: string): boolean => kind.includes("/") && splitAfterSlash(kind).includes(".");
const splitAfterSlash = (kind: string): string => kind.slice(kind.indexOf("/") + 1);

function hasNewRdt({ intelRdt }: ContainerEdits): boolean {
  return intelRdt?.schemata !== undefined || intelRdt?.enableMonitoring === true;
}

function hasAnnotations(spec: CdiSpec): boolean {
  return [spec, ...spec.devices].some(({ annotations }) => Object.keys(annotations ?? {}).length > 0);
}

function editsOf(spec: CdiSpec): ContainerEdits[] {
  return [...spec.devices.map((device) => device.containerEdits), spec.containerEdits ?? {}];
}
