/** What puts specifications into configurations, without what reads files of them (half as much to load): for short commands. */
export { deviceNumber, hostDevice } from "./device-node.ts";
export { applyEdits, type SourcedEdits } from "./edits.ts";
export { isQualifiedName } from "./names.ts";
export type * from "./types.ts";
export { CURRENT_VERSION, minimumVersion } from "./version.ts";
