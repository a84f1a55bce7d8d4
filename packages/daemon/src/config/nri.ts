/** containerd's settings of NRI: where plugins come from, how long they may take, what the built-in validator rejects. */
import type { NriSettings } from "@berth/cri";
import { NRI } from "./keys.ts";
import type { Reader } from "./reader.ts";

const SOCKET = "/var/run/nri/nri.sock";
const STATE = "/run/berth";

/** containerd's socket is the node's, and a second daemon beside it has one of its own: what says containerd's default says nothing. */
export function nriOf(file: Reader, state: string): NriSettings {
  const table = file.below("plugins", NRI);
  const socket = table.string("socket_path") ?? SOCKET;
  const disabled = (file.strings("disabled_plugins") ?? []).some((name) => name === "nri" || name === NRI);
  return {
    disable: disabled || table.bool("disable") === true,
    socketPath: socket === SOCKET && state !== STATE ? `${state}/nri.sock` : socket,
    pluginPath: table.string("plugin_path") ?? "/opt/nri/plugins",
    pluginConfigPath: table.string("plugin_config_path") ?? "/etc/nri/conf.d",
    // containerd's 0 is its default.
    pluginRegistrationTimeoutMs: table.milliseconds("plugin_registration_timeout") || 5_000,
    pluginRequestTimeoutMs: table.milliseconds("plugin_request_timeout") || 2_000,
    disableConnections: table.bool("disable_connections") ?? false,
    defaultValidator: validatorOf(table.below("default_validator")),
  };
}

function validatorOf(table: Reader): NriSettings["defaultValidator"] {
  if (table.bool("enable") !== true) return undefined;
  const rejects = (what: string): boolean => table.bool(`reject_${what}_adjustment`) === true;
  return {
    rejectOciHookAdjustment: rejects("oci_hook"),
    rejectRuntimeDefaultSeccompAdjustment: rejects("runtime_default_seccomp"),
    rejectUnconfinedSeccompAdjustment: rejects("unconfined_seccomp"),
    rejectCustomSeccompAdjustment: rejects("custom_seccomp"),
    rejectNamespaceAdjustment: rejects("namespace"),
    rejectSysctlAdjustment: rejects("sysctl"),
    requiredPlugins: table.strings("required_plugins") ?? [],
    tolerateMissingPluginsAnnotation: table.string("tolerate_missing_plugins_annotation") ?? "",
  };
}
