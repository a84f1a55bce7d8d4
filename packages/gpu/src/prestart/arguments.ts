/** What nvidia-container-runtime-hook has nvidia-container-cli do for a container, as its command line. */
import { DEFAULT_CAPABILITIES, type ToolkitConfig } from "../toolkit/config.ts";
import type { Request } from "../toolkit/request.ts";

const KNOWN = DEFAULT_CAPABILITIES.split(",");
/** Without NVIDIA_DRIVER_CAPABILITIES. */
const USUAL = ["utility", "compute"];

/** Parts of the driver that the container gets, by name. Throws Error for one that is not known, or that the configuration forbids. */
export function driverCapabilities(request: Request, config: ToolkitConfig): string[] {
  const configured = config.get("supported-driver-capabilities");
  const supported = configured === "all" ? KNOWN : names(configured);
  const unknown = supported.find((name) => !KNOWN.includes(name));
  if (unknown !== undefined)
    throw new Error(`supported-driver-capabilities: "${unknown}" is none of ${KNOWN.join(", ")}`);
  const asked = request.env.get("NVIDIA_DRIVER_CAPABILITIES");
  if (asked === undefined && request.isLegacy) return supported.toSorted();
  if (!asked) return USUAL.filter((name) => supported.includes(name)).toSorted();
  const wanted = names(asked);
  if (wanted.includes("all")) return supported.toSorted();
  const refused = wanted.filter((name) => !supported.includes(name));
  if (refused.length > 0)
    throw new Error(
      `NVIDIA_DRIVER_CAPABILITIES: unsupported capabilities ${refused.join(", ")} (allowed: ${supported.join(", ")})`,
    );
  return [...new Set(wanted)].toSorted();
}

const names = (list: string): string[] =>
  list
    .split(",")
    .map((name) => name.trim())
    .filter((name) => name !== "");

export interface Target {
  readonly pid: number;
  /** The container's root, as the runtime has it. */
  readonly rootfs: string;
}

/** Throws Error for what a container that is not privileged may not ask for. */
export function cliArguments(
  request: Request,
  devices: readonly string[],
  config: ToolkitConfig,
  { pid, rootfs }: Target,
  debug: boolean,
): string[] {
  const list = devices.filter((device) => device !== "").join(",");
  const channels = request.imexChannels().join(",");
  return [
    ...globalArguments(config, debug),
    "configure",
    ...compatArguments(config),
    ...valued("ldconfig", config.ldconfig()),
    ...switched("no-cgroups", config.get("nvidia-container-cli.no-cgroups")),
    ...valued("device", list),
    ...valued("mig-config", migDevices(request, "CONFIG")),
    ...valued("mig-monitor", migDevices(request, "MONITOR")),
    ...valued("imex-channel", channels),
    ...driverCapabilities(request, config).map((name) => `--${name}`),
    ...request.requirements().map((text) => `--require=${text}`),
    `--pid=${pid}`,
    rootfs,
  ];
}

function globalArguments(config: ToolkitConfig, debug: boolean): string[] {
  return [
    ...valued("root", config.get("nvidia-container-cli.root")),
    ...switched("load-kmods", config.get("nvidia-container-cli.load-kmods")),
    ...switched("no-create-imex-channels", config.get("features.disable-imex-channel-creation")),
    ...switched("no-pivot", config.get("nvidia-container-cli.no-pivot")),
    ...valued("debug", debug ? "/dev/stderr" : config.get("nvidia-container-cli.debug")),
    ...valued("ldcache", config.get("nvidia-container-cli.ldcache")),
    ...valued("user", config.get("nvidia-container-cli.user")),
  ];
}

/** Newer CUDA libraries of the image. */
function compatArguments(config: ToolkitConfig): string[] {
  const mode = config.get("nvidia-container-runtime.modes.legacy.cuda-compat-mode");
  if (mode === "ldconfig" || mode === "mount") return [`--cuda-compat-mode=${mode}`];
  const allowed = config.get("features.allow-cuda-compat-libs-from-container");
  return mode === "disabled" || mode === "hook" || !allowed ? ["--cuda-compat-mode=disabled"] : [];
}

/** Throws Error for a container that is not privileged. */
export function migDevices(request: Request, kind: "CONFIG" | "MONITOR"): string {
  const devices = request.env.get(`NVIDIA_MIG_${kind}_DEVICES`) ?? "";
  if (devices !== "" && !request.isPrivileged)
    throw new Error(`cannot set NVIDIA_MIG_${kind}_DEVICES in a container that is not privileged`);
  return devices;
}

const valued = (name: string, value: string): string[] => (value === "" ? [] : [`--${name}=${value}`]);
const switched = (name: string, on: boolean): string[] => (on ? [`--${name}`] : []);
