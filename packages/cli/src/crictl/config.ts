/** /etc/crictl.yaml, and what the command line and the environment say instead. */
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { type Document, isMap, isScalar, parseDocument } from "yaml";
import { DEFAULT_ADDRESS } from "../address.ts";
import { CrictlError } from "./errors.ts";
import { bool, duration, type Flag, int, type Parsed, string } from "./flags.ts";

export const DEFAULT_CONFIG = "/etc/crictl.yaml";
/** crictl's own, behind berth's. */
export const DEFAULT_ENDPOINTS: readonly string[] = [
  `unix://${DEFAULT_ADDRESS}`,
  "unix:///run/containerd/containerd.sock",
  "unix:///run/crio/crio.sock",
  "unix:///var/run/cri-dockerd.sock",
];
const DEFAULT_TIMEOUT_MS = 2000;

export const GLOBAL_FLAGS: readonly Flag[] = [
  string(
    "config",
    "Location of the client config file. If not specified and the default does not exist, the program's directory is searched as well",
    { aliases: ["c"], env: "CRI_CONFIG_FILE", value: DEFAULT_CONFIG },
  ),
  string(
    "runtime-endpoint",
    `Endpoint of CRI container runtime service (default: uses in order the first successful one of [${DEFAULT_ENDPOINTS.join(" ")}]). Default is now deprecated and the endpoint should be set instead.`,
    { aliases: ["r"], env: "CONTAINER_RUNTIME_ENDPOINT" },
  ),
  string("image-endpoint", "Endpoint of CRI image manager service (default: uses 'runtime-endpoint' setting)", {
    aliases: ["i"],
    env: "IMAGE_SERVICE_ENDPOINT",
  }),
  duration("timeout", "Timeout of connecting to the server in seconds (e.g. 2s, 20s.). 0 or less is set to default", {
    aliases: ["t"],
    value: DEFAULT_TIMEOUT_MS,
  }),
  bool("debug", "Enable debug mode", { aliases: ["D"] }),
  int(
    "max-retries",
    "Max retries for connecting to an explicitly set endpoint with exponential backoff (0 to disable, negative for infinite)",
    { value: 3 },
  ),
  bool("enable-tracing", "Enable OpenTelemetry tracing."),
  int(
    "tracing-sampling-rate-per-million",
    "Number of samples to collect per million OpenTelemetry spans. Set to 1000000 or -1 to always sample.",
    { value: -1 },
  ),
  string("tracing-endpoint", "Address to which the gRPC tracing collector will send spans to.", {
    value: "127.0.0.1:4317",
  }),
  string("profile-cpu", "Write a pprof CPU profile to the provided path."),
  string("profile-mem", "Write a pprof memory profile to the provided path."),
];

export interface Settings {
  /** undefined: nobody named one. */
  readonly runtimeEndpoint: string | undefined;
  readonly imageEndpoint: string | undefined;
  readonly timeoutMs: number;
  readonly debug: boolean;
  readonly pullImageOnCreate: boolean;
  readonly disablePullOnRun: boolean;
  readonly maxRetries: number;
}

export interface FileSettings {
  "runtime-endpoint": string;
  "image-endpoint": string;
  /** Seconds. */
  timeout: number;
  debug: boolean;
  "pull-image-on-create": boolean;
  "disable-pull-on-run": boolean;
  "max-retries": number;
}

const NONE: FileSettings = {
  "runtime-endpoint": "",
  "image-endpoint": "",
  timeout: 0,
  debug: false,
  "pull-image-on-create": false,
  "disable-pull-on-run": false,
  "max-retries": 0,
};

export type OptionName = keyof FileSettings;
export const OPTION_NAMES = Object.keys(NONE) as OptionName[];

export interface ConfigFile {
  readonly settings: FileSettings;
  readonly document: Document;
}

/** Throws the error of node:fs, or CrictlError for a file that is no configuration. */
export function readConfig(path: string): ConfigFile {
  const document = parseDocument(readFileSync(path, "utf8"));
  const [wrong] = document.errors;
  if (wrong) throw new CrictlError(`yaml: ${wrong.message}`);
  const settings = { ...NONE };
  for (const { key, value } of isMap(document.contents) ? document.contents.items : []) {
    const name = isScalar(key) ? String(key.value) : "";
    if (!(name in NONE)) throw new CrictlError(`Config option '${name}' is not valid`);
    setOption(settings, name as OptionName, isScalar(value) ? (value.source ?? "") : "");
  }
  return { settings, document };
}

export function setOption(settings: FileSettings, name: OptionName, text: string): void {
  const current = settings[name];
  const values = settings as unknown as Record<string, string | number | boolean>;
  if (typeof current === "string") values[name] = text;
  else if (typeof current === "number" && /^[+-]?\d+$/.test(text)) values[name] = Number(text);
  else if (typeof current === "boolean" && /^(1|t|T|TRUE|true|True)$/.test(text)) values[name] = true;
  else if (typeof current === "boolean" && /^(0|f|F|FALSE|false|False)$/.test(text)) values[name] = false;
  else
    throw new CrictlError(
      `parsing config option '${name}': ${typeof current === "number" ? "strconv.Atoi" : "strconv.ParseBool"}: parsing ${JSON.stringify(text)}: invalid syntax`,
    );
}

/** Comments and the order of what was there stay. */
export function writeConfig(path: string, { settings, document }: ConfigFile): void {
  for (const name of OPTION_NAMES) document.set(name, settings[name]);
  mkdirSync(dirname(path), { recursive: true, mode: 0o755 });
  writeFileSync(path, document.toString({ lineWidth: 0 }), { mode: 0o600 });
}

/** A file that was asked for must be there, but for `config`, which makes it. */
export function fileSettings(path: string, asked: boolean, command: string | undefined): FileSettings | undefined {
  if (!existsSync(path)) {
    if (asked && command !== "config")
      throw new CrictlError(`get server config: load config file: open ${path}: no such file or directory`);
    return undefined;
  }
  try {
    return readConfig(path).settings;
  } catch (error) {
    if (asked && error instanceof CrictlError)
      throw new CrictlError(`get server config: load config file: ${error.message}`);
    if (error instanceof CrictlError) return undefined;
    throw error;
  }
}

export function resolve(flags: Parsed, file: FileSettings | undefined): Settings {
  const endpoint = (name: "runtime-endpoint" | "image-endpoint"): string | undefined =>
    flags.isSet(name) ? flags.string(name) : file?.[name] || undefined;
  const timeout = flags.number("timeout") > 0 ? flags.number("timeout") : DEFAULT_TIMEOUT_MS;
  return {
    runtimeEndpoint: endpoint("runtime-endpoint"),
    imageEndpoint: endpoint("image-endpoint"),
    timeoutMs: flags.isSet("timeout") || !file || file.timeout <= 0 ? timeout : file.timeout * 1000,
    debug: flags.isSet("debug") ? flags.bool("debug") : (file?.debug ?? false),
    pullImageOnCreate: file?.["pull-image-on-create"] ?? false,
    disablePullOnRun: file?.["disable-pull-on-run"] ?? false,
    maxRetries: flags.isSet("max-retries") || !file ? flags.number("max-retries") : file["max-retries"],
  };
}
