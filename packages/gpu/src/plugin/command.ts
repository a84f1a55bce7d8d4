/** `berth-device-plugin`'s command line: which plugin it is to be, with which settings. */
import { readFileSync } from "node:fs";
import { StrictDocument } from "@berth/cdi";
import { Command, InvalidArgumentError, Option } from "commander";
import { truth } from "../toolkit/truth.ts";
import { parseConfig, type PluginConfig } from "./config.ts";
import {
  DEFAULT_FLAGS,
  type Flags,
  ID_STRATEGIES,
  LIST_STRATEGIES,
  type ListStrategy,
  MIG_STRATEGIES,
  type NvidiaSettings,
  parseSettings,
  POLICIES,
} from "./nvidia/settings.ts";

export interface CommandOptions {
  readonly configFile: string | undefined;
  readonly cdiSpecDirs: readonly string[];
  readonly kubeletSocket: string;
  readonly logLevel: string;
  /** Of NVIDIA's plugin; one that is not on the command line or in the environment is undefined. */
  readonly flags: Partial<Flags>;
  readonly imexChannelIds: readonly number[] | undefined;
  readonly imexRequired: boolean | undefined;
}

export type Chosen =
  | { readonly kind: "cdi"; readonly config: PluginConfig }
  | { readonly kind: "nvidia"; readonly settings: NvidiaSettings };

const LEVELS = ["debug", "info", "warn", "error"];
const split = (text: string): string[] => text.split(",").map((one) => one.trim());

/** Of Go's flags: --flag, --flag=false. */
function switchOf(text: string): boolean {
  const value = truth(text);
  if (value === undefined) throw new InvalidArgumentError("it is true or false");
  return value;
}

function strategies(text: string): ListStrategy[] {
  return split(text).map((name) => {
    const found = LIST_STRATEGIES.find((known) => known === name);
    if (found === undefined) throw new InvalidArgumentError(`"${name}" is none of ${LIST_STRATEGIES.join(", ")}`);
    return found;
  });
}

function numbers(text: string): number[] {
  return split(text).map((one) => {
    if (!/^\d+$/.test(one)) throw new InvalidArgumentError(`"${one}" is no channel`);
    return Number(one);
  });
}

const variable = (flag: string): string => flag.toUpperCase().replaceAll("-", "_");
const valued = (name: string, about: string, value = "value"): Option =>
  new Option(`--${name} <${value}>`, about).env(variable(name));
const switched = (name: string, about: string): Option =>
  new Option(`--${name} [bool]`, about).env(variable(name)).argParser(switchOf).preset("true");

export function parseCommand(argv: readonly string[]): CommandOptions {
  const command = new Command("berth-device-plugin")
    .description("Makes NVIDIA GPUs, or devices of any CDI kind, resources of this Kubernetes node.")
    .addOption(
      valued("config-file", "what to offer: NVIDIA's own file, or one with CDI kinds under `resources`", "file"),
    )
    .addOption(
      valued("cdi-spec-dirs", "where CDI specifications are, comma-separated; NVIDIA's are written to the last", "dirs")
        .argParser(split)
        .default(["/etc/cdi", "/var/run/cdi"], "/etc/cdi,/var/run/cdi"),
    )
    .addOption(
      valued(
        "kubelet-socket",
        "the kubelet's registration socket; the plugin's own are made beside it",
        "file",
      ).default("/var/lib/kubelet/device-plugins/kubelet.sock"),
    )
    .addOption(valued("log-level", "how much is logged", "level").choices(LEVELS).default("info"))
    .addOption(valued("mig-strategy", "how MIG devices are offered").choices(MIG_STRATEGIES))
    .addOption(switched("fail-on-init-error", "end where NVML cannot be asked (default: true)"))
    .addOption(new Option("--nvidia-driver-root, --driver-root <dir>", "of the driver").env("NVIDIA_DRIVER_ROOT"))
    .addOption(new Option("--nvidia-dev-root, --dev-root <dir>", "of its device nodes").env("NVIDIA_DEV_ROOT"))
    .addOption(switched("pass-device-specs", "give device nodes to containers by name"))
    .addOption(
      valued(
        "device-list-strategy",
        "how runtimes are told: envvar, volume-mounts, cdi-annotations, cdi-cri",
      ).argParser(strategies),
    )
    .addOption(valued("device-id-strategy", "what runtimes are told").choices(ID_STRATEGIES))
    .addOption(switched("gdrcopy-enabled", "containers get GDRCopy"))
    .addOption(switched("gds-enabled", "containers get GPUDirect Storage"))
    .addOption(switched("mofed-enabled", "containers get Mellanox's devices"))
    .addOption(valued("cdi-annotation-prefix", "of annotations that name devices"))
    .addOption(
      new Option("--nvidia-cdi-hook-path, --nvidia-ctk-path <file>", "the hooks' program, in specifications").env(
        "NVIDIA_CDI_HOOK_PATH",
      ),
    )
    .addOption(
      new Option(
        "--container-driver-root, --driver-root-ctr-path <dir>",
        "the driver's root, as this container has it",
      ).env("DRIVER_ROOT_CTR_PATH"),
    )
    .addOption(valued("shared-devices-allocation-policy", "which device's share is next").choices(POLICIES))
    .addOption(valued("device-discovery-strategy", "how GPUs are found").choices(["auto", "nvml"]))
    .addOption(valued("imex-channel-ids", "IMEX channels of every container").argParser(numbers))
    .addOption(switched("imex-required", "end where a channel is not there"))
    .addOption(valued("mps-root", "has no effect: MPS is not supported").hideHelp())
    .allowExcessArguments(false)
    .parse([...argv], { from: "user" });
  return optionsOf(command.opts());
}

function optionsOf(given: Record<string, unknown>): CommandOptions {
  const at = <T>(name: string): T | undefined => given[name] as T | undefined;
  const flags: Record<string, unknown> = {
    migStrategy: at("migStrategy"),
    failOnInitError: at("failOnInitError"),
    nvidiaDriverRoot: at("driverRoot"),
    nvidiaDevRoot: at("devRoot"),
    gdrcopyEnabled: at("gdrcopyEnabled"),
    gdsEnabled: at("gdsEnabled"),
    mofedEnabled: at("mofedEnabled"),
    passDeviceSpecs: at("passDeviceSpecs"),
    deviceListStrategy: at("deviceListStrategy"),
    deviceIDStrategy: at("deviceIdStrategy"),
    cdiAnnotationPrefix: at("cdiAnnotationPrefix"),
    nvidiaCTKPath: at("nvidiaCtkPath"),
    containerDriverRoot: at("driverRootCtrPath"),
    sharedDevicesAllocationPolicy: at("sharedDevicesAllocationPolicy"),
  };
  return {
    configFile: at("configFile"),
    cdiSpecDirs: at<string[]>("cdiSpecDirs") ?? [],
    kubeletSocket: at<string>("kubeletSocket") ?? "",
    logLevel: at<string>("logLevel") ?? "info",
    flags: Object.fromEntries(Object.entries(flags).filter(([, value]) => value !== undefined)),
    imexChannelIds: at("imexChannelIds"),
    imexRequired: at("imexRequired"),
  };
}

/** The command line counts over the environment, which counts over the file. Throws CdiError, and the error of a file that cannot be read. */
export function choose(options: CommandOptions): Chosen {
  const { configFile } = options;
  const content = configFile === undefined ? "version: v1\n" : readFileSync(configFile, "utf8");
  if (isGeneric(content, configFile)) return { kind: "cdi", config: parseConfig(content, configFile) };
  const { flags, timeSlicing, imex } = parseSettings(content, configFile);
  return {
    kind: "nvidia",
    settings: {
      flags: { ...DEFAULT_FLAGS, ...flags, ...options.flags },
      timeSlicing,
      imex: {
        channelIDs: options.imexChannelIds ?? imex.channelIDs,
        required: options.imexRequired ?? imex.required,
      },
    },
  };
}

/** A list of resources is of CDI kinds; NVIDIA's file has none. */
function isGeneric(content: string, file: string | undefined): boolean {
  return StrictDocument.parse(content, file).root().field("resources")?.isList === true;
}
