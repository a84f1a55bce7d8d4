/** berthd's assembly, for those who embed it or test it. */
export { assemble, type AssembleOptions, type Daemon } from "./assemble.ts";
export { checkDocument, describe, type Problem } from "./config/check.ts";
export { ConfigError, type Document, EMPTY, type Entry, readDocument } from "./config/document.ts";
export { type CniSettings, type Given, type Settings, settingsOf } from "./config/settings.ts";
export { type Flags, type Invocation, parseCommandLine } from "./options.ts";
