/** The Node Resource Interface: plugins that are told of pods and containers, adjust what is made and update what runs. */
export { adjustSpec, type AdjustOptions } from "./adjust-oci.ts";
export { containerOf } from "./from-oci.ts";
export { Nri, type NriHost, type NriOptions, type PodAndContainer } from "./nri.ts";
export { Conflict } from "./owners.ts";
export type { PluginSettings } from "./plugin.ts";
export type { ValidatorSettings } from "./validator.ts";
export type { PluginLog } from "./log.ts";
