/** Checkpoint and restore by CRIU, for who has containers in process. */
export { DUMP_LOG, planDump, type DumpOptions, type DumpTarget } from "./dump.ts";
export { descriptorsFile, descriptorsOf, readDescriptors, writeDescriptors } from "./descriptors.ts";
export type { CriuPlace } from "./options.ts";
export { planMountPoints, planRestore, RESTORE_LOG, type RestoreContext } from "./restore.ts";
export { criuWords } from "./words.ts";
export { withTimeNamespace } from "./time.ts";
