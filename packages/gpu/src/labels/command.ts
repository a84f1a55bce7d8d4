/** `berth-gpu-feature-discovery`'s command line: gpu-feature-discovery's flags, variables and file. */
import { readFileSync } from "node:fs";
import { InvalidArgumentError } from "commander";
import { option, parseFlags, present, switched, valued } from "../flags.ts";
import { parseDuration } from "../plugin/nvidia/duration.ts";
import { type LabelFileFlags, parseSettings } from "../plugin/nvidia/file.ts";
import { MIG_STRATEGIES, type MigStrategy, type Sharing } from "../plugin/nvidia/settings.ts";

export interface LabelFlags extends LabelFileFlags {
  readonly migStrategy: MigStrategy;
  readonly failOnInitError: boolean;
  readonly useNodeFeatureAPI: boolean;
  readonly deviceDiscoveryStrategy: string;
  readonly containerDriverRoot: string;
}

export interface LabelCommandSettings {
  readonly flags: LabelFlags;
  readonly sharing: Sharing | undefined;
  readonly kube: {
    /** "": this process is in a pod. */
    readonly kubeconfig: string;
    readonly namespace: string;
    readonly node: string;
    readonly pod: string | undefined;
  };
}

export interface LabelCommand {
  readonly logLevel: string;
  /** Throws CdiError, Error, and the error of a file that cannot be read. */
  readSettings(warn: (text: string) => void): LabelCommandSettings;
}

const DEFAULTS: LabelFlags = {
  migStrategy: "none",
  failOnInitError: true,
  oneshot: false,
  noTimestamp: false,
  sleepInterval: 60_000,
  outputFile: "/etc/kubernetes/node-feature-discovery/features.d/gfd",
  machineTypeFile: "/sys/class/dmi/id/product_name",
  useNodeFeatureAPI: true,
  deviceDiscoveryStrategy: "auto",
  containerDriverRoot: "/driver-root",
};
const DISCOVERY = ["auto", "nvml", "tegra", "vfio"];
const LEVELS = ["debug", "info", "warn", "error"];

function duration(text: string): number {
  try {
    return parseDuration(text);
  } catch (error) {
    throw new InvalidArgumentError((error as Error).message);
  }
}

const OPTIONS = () => [
  valued("mig-strategy", "how MIG devices are offered", "value", ["GFD_MIG_STRATEGY", "MIG_STRATEGY"]).choices(
    MIG_STRATEGIES,
  ),
  switched("fail-on-init-error", "end where NVML cannot be asked (default: true)", [
    "GFD_FAIL_ON_INIT_ERROR",
    "FAIL_ON_INIT_ERROR",
  ]),
  switched("oneshot", "label once, and end", ["GFD_ONESHOT"]),
  switched("no-timestamp", "without a label that says when", ["GFD_NO_TIMESTAMP"]),
  valued("sleep-interval", "between labelings: 60s, 1h30m, or infinite", "duration", ["GFD_SLEEP_INTERVAL"]).argParser(
    duration,
  ),
  option("-o, --output-file <file>", "for node-feature-discovery; none: the standard output", ["GFD_OUTPUT_FILE"]),
  option("--output <file>", "the same", []).hideHelp(),
  valued("machine-type-file", "that says what machine this is", "file", ["GFD_MACHINE_TYPE_FILE"]),
  valued("config-file", "the device plugin's", "file", ["GFD_CONFIG_FILE", "CONFIG_FILE"]),
  switched("use-node-feature-api", "make a NodeFeature object in place of a file (default: true)", [
    "GFD_USE_NODE_FEATURE_API",
    "USE_NODE_FEATURE_API",
  ]),
  valued("device-discovery-strategy", "how GPUs are found").choices(DISCOVERY),
  option("--container-driver-root, --driver-root-ctr-path <dir>", "the driver's root, as this container has it", [
    "DRIVER_ROOT_CTR_PATH",
    "CONTAINER_DRIVER_ROOT",
  ]),
  valued("kubeconfig", "where the API server is, outside of a pod", "file").default(""),
  valued("kube-api-qps", "has no effect: there is one request at a time", "number"),
  valued("kube-api-burst", "has no effect", "number"),
  valued("namespace", "of the NodeFeature object", "name").default("default"),
  valued("node-name", "of this node", "name").default(""),
  valued("pod-name", "of this pod, with which the object goes", "name"),
  valued("log-level", "how much is logged", "level").choices(LEVELS).default("info"),
];

export function parseLabelCommand(argv: readonly string[]): LabelCommand {
  const about = "Tells node-feature-discovery what NVIDIA GPUs this node has, as labels.";
  const { at } = parseFlags("berth-gpu-feature-discovery", about, OPTIONS(), argv);
  const given = present({
    migStrategy: at<MigStrategy>("migStrategy"),
    failOnInitError: at<boolean>("failOnInitError"),
    oneshot: at<boolean>("oneshot"),
    noTimestamp: at<boolean>("noTimestamp"),
    sleepInterval: at<number>("sleepInterval"),
    outputFile: at<string>("output") ?? at<string>("outputFile"),
    machineTypeFile: at<string>("machineTypeFile"),
    useNodeFeatureAPI: at<boolean>("useNodeFeatureApi"),
    deviceDiscoveryStrategy: at<string>("deviceDiscoveryStrategy"),
    containerDriverRoot: at<string>("driverRootCtrPath"),
  }) as Partial<LabelFlags>;
  const file = at<string>("configFile");
  return {
    logLevel: at<string>("logLevel") ?? "info",
    readSettings: (warn) => {
      const read = parseSettings(file ? readFileSync(file, "utf8") : "version: v1\n", file);
      for (const warning of read.warnings) warn(warning);
      const { migStrategy, failOnInitError, containerDriverRoot } = read.flags;
      const ofFile = {
        ...read.labels,
        ...present({
          migStrategy,
          failOnInitError,
          containerDriverRoot,
          useNodeFeatureAPI: read.useNodeFeatureAPI,
          deviceDiscoveryStrategy: read.discovery,
        }),
      } as Partial<LabelFlags>;
      return {
        flags: { ...DEFAULTS, ...ofFile, ...given },
        sharing: read.sharing,
        kube: {
          kubeconfig: at<string>("kubeconfig") ?? "",
          namespace: at<string>("namespace") ?? "",
          node: at<string>("nodeName") ?? "",
          pod: at<string>("podName"),
        },
      };
    },
  };
}
