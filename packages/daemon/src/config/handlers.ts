/** The runtimes table: what each RuntimeClass's handler is. */
import { type RuntimeHandler, VM_TYPE } from "@berth/cri";
import { ConfigError, type Entry } from "./document.ts";
import { RUNTIME } from "./keys.ts";
import type { Reader } from "./reader.ts";

export interface HandlerSettings {
  readonly handlers: ReadonlyMap<string, RuntimeHandler>;
  /** Serves pods that name no handler. */
  readonly defaultHandler: string;
}

const RUNC_TYPE = "io.containerd.runc.v2";

/** Served without a word in the file: the name that containerd's default file has, berth's own, and pods in virtual machines. */
const BUILT_IN: ReadonlyMap<string, string> = new Map([
  ["runc", RUNC_TYPE],
  ["berth", RUNC_TYPE],
  ["berth-vm", VM_TYPE],
]);

/** Throws ConfigError. */
export function handlersOf(root: Reader): HandlerSettings {
  const containerd = root.below("plugins", RUNTIME, "containerd");
  const runtimes = containerd.below("runtimes");
  const names = new Set([...BUILT_IN.keys(), ...runtimes.names()]);
  const handlers = new Map([...names].map((name) => [name, handlerOf(name, runtimes.below(name))]));
  const defaultHandler = containerd.string("default_runtime_name") ?? "runc";
  if (!handlers.has(defaultHandler)) {
    throw at(
      containerd.entry("default_runtime_name"),
      `containerd.default_runtime_name: "${defaultHandler}" is not among containerd.runtimes (${[...names].join(", ")})`,
    );
  }
  return { handlers, defaultHandler };
}

function handlerOf(name: string, table: Reader): RuntimeHandler {
  const type = table.string("runtime_type") ?? BUILT_IN.get(name) ?? RUNC_TYPE;
  // The node's devices are not the virtual machine's.
  const withoutDevices = table.bool("privileged_without_host_devices") ?? type === VM_TYPE;
  const allAllowed = table.bool("privileged_without_host_devices_all_devices_allowed") ?? false;
  if (allAllowed && !withoutDevices) {
    throw at(
      table.entry("privileged_without_host_devices_all_devices_allowed"),
      `containerd.runtimes.${name}: privileged_without_host_devices_all_devices_allowed needs privileged_without_host_devices`,
    );
  }
  const sandboxer = table.string("sandboxer") || "podsandbox";
  if (sandboxer !== "podsandbox" && sandboxer !== "shim")
    throw at(
      table.entry("sandboxer"),
      `containerd.runtimes.${name}.sandboxer: "${sandboxer}" is neither podsandbox nor shim`,
    );
  return {
    name,
    type,
    path: table.string("runtime_path"),
    podAnnotations: table.strings("pod_annotations") ?? [],
    containerAnnotations: table.strings("container_annotations") ?? [],
    privilegedWithoutHostDevices: withoutDevices,
    privilegedAllDevicesAllowed: allAllowed,
    cgroupWritable: table.bool("cgroup_writable") ?? false,
    baseSpec: table.string("base_runtime_spec"),
    cniConfDir: table.string("cni_conf_dir"),
    cniMaxConfNum: table.int("cni_max_conf_num"),
    sandboxer,
    options: optionsOf(name, table.below("options")),
  };
}

/** Where nvidia-container-runtime has it, without its environment's say. */
const NVIDIA_CONFIG = "/etc/nvidia-container-runtime/config.toml";

function optionsOf(name: string, table: Reader): RuntimeHandler["options"] {
  const binary = table.string("BinaryName");
  const nvidia = table.bool("NvidiaRuntime") === true;
  if (nvidia && binary !== undefined)
    throw at(
      table.entry("NvidiaRuntime"),
      `containerd.runtimes.${name}.options: NvidiaRuntime is served in process and needs no BinaryName; leave one of them out`,
    );
  return {
    binary,
    root: table.string("Root"),
    configPath: table.string("ConfigPath"),
    noPivotRoot: table.bool("NoPivotRoot") ?? false,
    noNewKeyring: table.bool("NoNewKeyring") ?? false,
    nvidia: nvidia ? (table.string("NvidiaConfig") ?? NVIDIA_CONFIG) : undefined,
    systemdCgroup: table.bool("SystemdCgroup") ?? false,
    shim: shimOptionsOf(table),
  };
}

/** As containerd has them for runtimes that it does not know: what the shim makes of them is its own affair. */
function shimOptionsOf(table: Reader): RuntimeHandler["options"]["shim"] {
  const [typeUrl, configPath, configBody] = ["TypeUrl", "ConfigPath", "ConfigBody"].map((key) => table.string(key));
  if (typeUrl === undefined && configPath === undefined && configBody === undefined) return undefined;
  return { typeUrl: typeUrl ?? "", configPath: configPath ?? "", configBody: configBody ?? "" };
}

export const at = (entry: Entry | undefined, message: string): ConfigError =>
  new ConfigError(entry === undefined ? message : `${entry.file}:${entry.line}: ${message}`);
