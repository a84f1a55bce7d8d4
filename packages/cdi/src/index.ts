/** CDI: devices of any vendor for containers, by files that say what a container needs for each. */
export { ANNOTATION_PREFIX, annotationKey, annotationValue, devicesOfAnnotations } from "./annotations.ts";
export { deviceNumber, hostDevice, type HostDevice, type HostDevices } from "./device-node.ts";
export { type Decode, type Fields, Text as StrictDocument, type Value } from "./document.ts";
export { applyEdits, type SourcedEdits } from "./edits.ts";
export { CdiError, UnresolvedError, type Place } from "./errors.ts";
export { DEFAULT_SPEC_DIRS, type SpecValidator } from "./files.ts";
export { isQualifiedName, parseQualifiedName, qualifiedName, type QualifiedName } from "./names.ts";
export { originAt } from "./origins.ts";
export { parseCdiSpec } from "./parse.ts";
export { Registry, type RegistryOptions } from "./registry.ts";
export type * from "./types.ts";
export { CDI_VERSIONS, type CdiVersion, CURRENT_VERSION, minimumVersion } from "./version.ts";
export { type DirWatch, watchDirs } from "./watch.ts";
export { formatSpec, specName, transientSpecName, writeSpec } from "./write.ts";
