/** berthd's assembly, for those who embed it or test it. */
export { assemble, type AssembleOptions, type Daemon } from "./assemble.ts";
export { type Options, parseOptions } from "./options.ts";
