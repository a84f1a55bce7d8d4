/** `berth-device-plugin`'s command line: which plugin it is to be, with which settings. */
import { readFileSync } from "node:fs";
import { StrictDocument } from "@berth/cdi";
import { InvalidArgumentError } from "commander";
import { among, option, parseFlags, present, several, split, switched, valued } from "../flags.ts";
import { parseConfig, type PluginConfig } from "./config.ts";
import { KUBELET_SOCKET } from "./kubelet.ts";
import { parseSettings } from "./nvidia/file.ts";
import {
  CDI_FEATURES,
  checkSettings,
  DEFAULT_FLAGS,
  DISCOVERY_STRATEGIES,
  type Flags,
  ID_STRATEGIES,
  LIST_STRATEGIES,
  MIG_STRATEGIES,
  type NvidiaSettings,
  POLICIES,
} from "./nvidia/settings.ts";

export interface CommandOptions {
  readonly configFile: string | undefined;
  readonly cdiSpecDirs: readonly string[];
  /** "": no kubelet is told. */
  readonly kubeletSocket: string;
  readonly logLevel: string;
  /** "IP:PORT" of the metrics; undefined: they are not served. */
  readonly httpEndpoint: string | undefined;
  readonly metricsPath: string;
  /** Of NVIDIA's plugin; one that is not on the command line or in the environment is undefined. */
  readonly flags: Partial<Flags>;
  readonly imexChannelIds: readonly number[] | undefined;
  readonly imexRequired: boolean | undefined;
}

export type Chosen =
  | { readonly kind: "cdi"; readonly config: PluginConfig }
  | { readonly kind: "nvidia"; readonly settings: NvidiaSettings; readonly warnings: readonly string[] };

const LEVELS = ["debug", "info", "warn", "error"];

function channel(text: string): number {
  if (!/^\d+$/.test(text)) throw new InvalidArgumentError(`"${text}" is no channel`);
  return Number(text);
}

/** Those of NVIDIA's that are so anyway are taken; what is not done is refused. */
function feature(text: string): string {
  const known: readonly string[] = [...CDI_FEATURES, "disable-nvsandboxutils", "disable-multiple-csv-devices"];
  if (known.includes(text)) return text;
  throw new InvalidArgumentError(`feature "${text}" is not supported: there are ${known.join(", ")}`);
}

const OWN_OPTIONS = () => [
  valued("config-file", "what to offer: NVIDIA's own file, or one with CDI kinds under `resources`", "file"),
  valued("cdi-spec-dirs", "where CDI specifications are, comma-separated; NVIDIA's are written to the last", "dirs")
    .argParser(split)
    .default(["/etc/cdi", "/var/run/cdi"], "/etc/cdi,/var/run/cdi"),
  valued("kubelet-socket", "the kubelet's registration socket; the plugin's own are made beside it", "file").default(
    KUBELET_SOCKET,
  ),
  valued("log-level", "how much is logged", "level").choices(LEVELS).default("info"),
  valued("http-endpoint", "where Prometheus finds metrics, as IP:PORT; none: they are not served", "address"),
  valued("metrics-path", "their path", "path").default("/metrics"),
];
const NVIDIA_OPTIONS = () => [
  valued("mig-strategy", "how MIG devices are offered").choices(MIG_STRATEGIES),
  switched("fail-on-init-error", "end where NVML cannot be asked (default: true)"),
  option("--nvidia-driver-root, --driver-root <dir>", "of the driver", ["NVIDIA_DRIVER_ROOT"]),
  option("--nvidia-dev-root, --dev-root <dir>", "of its device nodes", ["NVIDIA_DEV_ROOT"]),
  switched("pass-device-specs", "give device nodes to containers by name"),
  valued("device-list-strategy", `how runtimes are told: ${LIST_STRATEGIES.join(", ")}`).argParser(
    several(among(LIST_STRATEGIES)),
  ),
  valued("device-id-strategy", "what runtimes are told").choices(ID_STRATEGIES),
  switched("gdrcopy-enabled", "containers get GDRCopy"),
  switched("gds-enabled", "containers get GPUDirect Storage"),
  switched("mofed-enabled", "containers get Mellanox's devices"),
  valued("cdi-annotation-prefix", "of annotations that name devices"),
  option("--nvidia-cdi-hook-path, --nvidia-ctk-path <file>", "the hooks' program, in specifications", [
    "NVIDIA_CDI_HOOK_PATH",
    "NVIDIA_CTK_PATH",
  ]),
  option("--container-driver-root, --driver-root-ctr-path <dir>", "the driver's root, as this container has it", [
    "DRIVER_ROOT_CTR_PATH",
    "CONTAINER_DRIVER_ROOT",
  ]),
  valued("mps-root", "where the host has what MPS control daemons make", "dir"),
  valued("mps-root-ctr-path", "where this container has it", "dir"),
  valued("shared-devices-allocation-policy", "which device's share is next").choices(POLICIES),
  valued("device-discovery-strategy", "how GPUs are found").choices(DISCOVERY_STRATEGIES),
  valued("imex-channel-ids", "IMEX channels of every container: none, or 0").argParser(several(channel)),
  switched("imex-required", "end where a channel is not there"),
  valued("cdi-feature-flags", `of specifications: ${CDI_FEATURES.join(", ")}`).argParser(several(feature)),
  valued("cdi-disable-hooks", "hooks that specifications are to leave out, or all").argParser(several(String)),
];

export function parseCommand(argv: readonly string[]): CommandOptions {
  const about = "Makes NVIDIA GPUs, or devices of any CDI kind, resources of this Kubernetes node.";
  const { at } = parseFlags("berth-device-plugin", about, [...OWN_OPTIONS(), ...NVIDIA_OPTIONS()], argv);
  const flags = {
    migStrategy: at<Flags["migStrategy"]>("migStrategy"),
    failOnInitError: at<boolean>("failOnInitError"),
    nvidiaDriverRoot: at<string>("driverRoot"),
    nvidiaDevRoot: at<string>("devRoot"),
    gdrcopyEnabled: at<boolean>("gdrcopyEnabled"),
    gdsEnabled: at<boolean>("gdsEnabled"),
    mofedEnabled: at<boolean>("mofedEnabled"),
    passDeviceSpecs: at<boolean>("passDeviceSpecs"),
    deviceListStrategy: at<Flags["deviceListStrategy"]>("deviceListStrategy"),
    deviceIDStrategy: at<Flags["deviceIDStrategy"]>("deviceIdStrategy"),
    cdiAnnotationPrefix: at<string>("cdiAnnotationPrefix"),
    nvidiaCTKPath: at<string>("nvidiaCtkPath"),
    containerDriverRoot: at<string>("driverRootCtrPath"),
    sharedDevicesAllocationPolicy: at<Flags["sharedDevicesAllocationPolicy"]>("sharedDevicesAllocationPolicy"),
    deviceDiscoveryStrategy: at<Flags["deviceDiscoveryStrategy"]>("deviceDiscoveryStrategy"),
    mpsRoot: at<string>("mpsRoot"),
    mpsContainerRoot: at<string>("mpsRootCtrPath"),
    cdiFeatureFlags: at<string[]>("cdiFeatureFlags"),
    cdiDisableHooks: at<string[]>("cdiDisableHooks"),
  };
  return {
    configFile: at("configFile"),
    cdiSpecDirs: at<string[]>("cdiSpecDirs") ?? [],
    kubeletSocket: at<string>("kubeletSocket") ?? "",
    logLevel: at<string>("logLevel") ?? "info",
    httpEndpoint: at("httpEndpoint"),
    metricsPath: at<string>("metricsPath") ?? "",
    flags: present(flags) as Partial<Flags>,
    imexChannelIds: at("imexChannelIds"),
    imexRequired: at("imexRequired"),
  };
}

/** The command line counts over the environment, which counts over the file. Throws CdiError, and the error of a file that cannot be read. */
export function choose(options: CommandOptions): Chosen {
  const { configFile } = options;
  const content = configFile ? readFileSync(configFile, "utf8") : "version: v1\n";
  if (isGeneric(content, configFile)) return { kind: "cdi", config: parseConfig(content, configFile) };
  const { flags, discovery, sharing, imex, warnings } = parseSettings(content, configFile);
  const deviceDiscoveryStrategy =
    options.flags.deviceDiscoveryStrategy ?? among(DISCOVERY_STRATEGIES)(discovery ?? "auto");
  const settings: NvidiaSettings = {
    flags: { ...DEFAULT_FLAGS, ...flags, ...options.flags, deviceDiscoveryStrategy },
    sharing,
    imex: {
      channelIDs: options.imexChannelIds ?? imex.channelIDs,
      required: options.imexRequired ?? imex.required,
    },
  };
  checkSettings(settings);
  return { kind: "nvidia", settings, warnings };
}

/** A list of resources is of CDI kinds; NVIDIA's file has none. */
function isGeneric(content: string, file: string | undefined): boolean {
  return StrictDocument.parse(content, file).root().field("resources")?.isList === true;
}
