/** CNI: pods on networks. */
export { Cni } from "./cni.ts";
export { DEFAULT_BIN_DIRS, DEFAULT_CACHE_DIR, DEFAULT_CONF_DIR, kubernetesArgs } from "./types.ts";
export type { AttachRequest, Capabilities, CniCall, CniOptions, CniResult, CniStatus, PortMapping } from "./types.ts";
export { CNI_VERSIONS, ConfError, parseConf } from "./conf.ts";
export type { CniVersion, NetworkConf, PluginConf } from "./conf.ts";
export { ConfDir, loadConfDir } from "./confdir.ts";
export type { Loaded } from "./confdir.ts";
export { DEFAULT_CONF_FILE, defaultConflist, ensureDefault, freeSubnet } from "./default.ts";
export type { DefaultNetwork } from "./default.ts";
export type { Log } from "./log.ts";
export { renderTemplate, templateData, type TemplateData } from "./template.ts";
export { CniError } from "./plugin.ts";
export type { CniCommand } from "./plugin.ts";
export type { CniDns, CniInterface, CniIp, CniRoute } from "./result.ts";
