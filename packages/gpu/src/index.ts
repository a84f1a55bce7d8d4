/** GPUs and other devices for Kubernetes: the device plugin. */
export { parseConfig, type PluginConfig, type ResourceConfig } from "./plugin/config.ts";
export { DevicePlugin, type PluginOptions } from "./plugin/plugin.ts";
export type { Log } from "./plugin/registrations.ts";
