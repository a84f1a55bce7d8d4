/** berthd's settings: the command line's, else the configuration file's, else berth's own defaults. */
import type { CollectorPolicy, CriSettings, NriSettings } from "@berth/cri";
import type { RegistrySettings, SnapshotterName, VerificationOptions } from "@berth/image";
import type { Flags } from "../options.ts";
import { checkDocument, describe, type Problem } from "./check.ts";
import { ConfigError, type Document } from "./document.ts";
import { at, handlersOf, type HandlerSettings } from "./handlers.ts";
import { collectionOf, fileOf, proxyOf, snapshotterOf } from "./images.ts";
import { IMAGES, RUNTIME, STREAMING } from "./keys.ts";
import { layersOf, type LayerSettings } from "./layers.ts";
import { nriOf } from "./nri.ts";
import { Reader } from "./reader.ts";
import { registryOf } from "./registry.ts";
import { tracingOf, type TracingSettings } from "./tracing.ts";

export interface Settings extends LayerSettings {
  readonly root: string;
  readonly state: string;
  /** The sockets that are served: berth's own, and the one that the file names. */
  readonly addresses: readonly [string, ...string[]];
  /** The group that may use the sockets; 0: none but root. */
  readonly socketGid: number;
  readonly netnsDir: string;
  readonly cni: CniSettings;
  readonly registry: RegistrySettings;
  readonly verification: VerificationOptions;
  /** docker's config.json, for pulls that bring no credentials. */
  readonly authFile: string | undefined;
  /** Layers at a time. */
  readonly maxConcurrentDownloads: number;
  /** Undefined: what works on the root directory. */
  readonly snapshotter: SnapshotterName | undefined;
  /** When images are removed to make room. Undefined: never. */
  readonly collection: CollectorPolicy | undefined;
  /** References of images that no garbage collection removes. */
  readonly pinned: readonly string[];
  readonly logLevel: string;
  readonly oomScore: number;
  /** IP:PORT of /v1/metrics. */
  readonly metricsAddress: string | undefined;
  /** Undefined: no traces are sent. */
  readonly tracing: TracingSettings | undefined;
  readonly bosun: string;
  readonly handlers: HandlerSettings;
  readonly cri: CriSettings;
  readonly nri: NriSettings;
}

export interface CniSettings {
  readonly confDir: string;
  readonly binDirs: readonly string[];
  readonly cacheDir: string;
  /** 0: all. */
  readonly maxNetworks: number;
}

export interface Given {
  readonly settings: Settings;
  readonly problems: readonly Problem[];
}

/** Throws ConfigError with every error of the file, a line each. */
export function settingsOf(
  document: Document,
  flags: Flags,
  bosun: string,
  environment: NodeJS.ProcessEnv = process.env,
): Given {
  const problems = checkDocument(document);
  const errors = problems.filter(({ severity }) => severity === "error");
  if (errors.length > 0) throw new ConfigError(errors.map(describe).join("\n"));
  const file = new Reader(document);
  checkEnabled(file);
  const state = directory(file, "state", flags.state, "/run/containerd", "/run/berth");
  const runtime = file.below("plugins", RUNTIME);
  const images = file.below("plugins", IMAGES);
  const address = flags.address ?? `${state}/berth.sock`;
  const named = file.string("plugins", "io.containerd.server.v1.grpc", "address");
  const proxy = proxyOf(file, process.env);
  const inState = runtime.bool("netns_mounts_under_state_dir") === true;
  const settings: Settings = {
    root: directory(file, "root", flags.root, "/var/lib/containerd", "/var/lib/berth"),
    state,
    addresses: named === undefined || named === address || flags.address !== undefined ? [address] : [address, named],
    socketGid: file.int("plugins", "io.containerd.server.v1.grpc", "gid") ?? 0,
    netnsDir: flags.netnsDir ?? (inState ? `${state}/netns` : "/run/netns"),
    cni: cniOf(runtime.below("cni"), flags),
    registry: { ...registryOf(images.below("registry"), flags.hostsDir), ...(proxy !== undefined && { proxy }) },
    verification: verificationOf(
      file.below("plugins", "io.containerd.image-verifier.v1.bindir"),
      flags.signaturePolicy ?? fileOf(file, "signature_policy"),
    ),
    authFile: flags.authFile ?? fileOf(file, "auth_file"),
    // containerd's 0 is "as many as there are": each takes memory, so it is the default here.
    maxConcurrentDownloads: images.int("max_concurrent_downloads") || 3,
    snapshotter: flags.snapshotter ?? snapshotterOf(file, images),
    collection: collectionOf(file),
    ...layersOf(file),
    pinned: pinnedOf(images.below("pinned_images")),
    logLevel: flags.logLevel ?? levelOf(file),
    oomScore: file.int("oom_score") ?? 0,
    metricsAddress: flags.metricsAddress ?? file.string("plugins", "io.containerd.server.v1.metrics", "address"),
    tracing: tracingOf(file, environment),
    bosun: flags.bosun ?? bosun,
    handlers: handlersOf(file),
    nri: nriOf(file, state),
    cri: criOf(runtime, file.below("plugins", STREAMING), images, flags),
  };
  return { settings, problems };
}

/** Distributions' packages of containerd ship this line; with it no kubelet is served, by containerd either. */
function checkEnabled(file: Reader): void {
  const disabled = file.strings("disabled_plugins") ?? [];
  const cri = disabled.find((name) => name === "cri" || name === STREAMING || name === "io.containerd.grpc.v1.cri");
  if (cri !== undefined)
    throw at(
      file.entry("disabled_plugins"),
      `disabled_plugins: "${cri}" is all that berthd is there for; take it out of the list`,
    );
}

/** A file that was containerd's names containerd's directories: those stay containerd's. */
function directory(
  file: Reader,
  name: "root" | "state",
  flag: string | undefined,
  containerd: string,
  own: string,
): string {
  const said = file.string(name);
  const path = flag ?? (said === undefined || said === containerd ? own : said);
  if (!path.startsWith("/")) throw at(file.entry(name), `${name}: "${path}" is not an absolute path`);
  return path.replace(/(?<=.)\/+$/, "");
}

function cniOf(table: Reader, flags: Flags): CniSettings {
  const [one, several] = [table.string("bin_dir"), table.strings("bin_dirs")];
  if (one !== undefined && several !== undefined)
    throw at(table.entry("bin_dir"), "cni.bin_dir and cni.bin_dirs exclude each other; keep bin_dirs");
  return {
    confDir: flags.cniConfDir ?? table.string("conf_dir") ?? "/etc/cni/net.d",
    binDirs: flags.cniBinDir ?? several ?? (one === undefined ? ["/opt/cni/bin", "/usr/lib/cni"] : [one]),
    cacheDir: flags.cniCacheDir ?? "/var/lib/cni",
    maxNetworks: table.int("max_conf_num") ?? 1,
  };
}

function verificationOf(table: Reader, signaturePolicy: string | undefined): VerificationOptions {
  return {
    verifiers: {
      binDir: table.string("bin_dir") ?? "/opt/containerd/image-verifier/bin",
      maxVerifiers: table.int("max_verifiers") ?? 10,
      perVerifierTimeoutMs: table.milliseconds("per_verifier_timeout") ?? 10_000,
    },
    ...(signaturePolicy !== undefined && { policyPath: signaturePolicy }),
  };
}

const pinnedOf = (table: Reader): string[] =>
  table
    .names()
    .map((name) => table.string(name))
    .filter((reference) => reference !== undefined);

/** logrus's names, which containerd uses, are pino's but for two. */
function levelOf(file: Reader): string {
  const level = file.string("debug", "level") ?? "info";
  const known: Readonly<Record<string, string>> = { warning: "warn", panic: "fatal" };
  const name = known[level] ?? level;
  if (!["trace", "debug", "info", "warn", "error", "fatal"].includes(name))
    throw at(
      file.entry("debug", "level"),
      `debug.level: "${level}" is none of trace, debug, info, warn, error, fatal, panic`,
    );
  return name;
}

/** Bytes; "no limit" would let a container that never ends its line fill its monitor's memory. */
const LONGEST_LOG_LINE = 16 << 20;
const DEFAULT_DRAIN_MS = 500;

function criOf(runtime: Reader, streaming: Reader, images: Reader, flags: Flags): CriSettings {
  const line = flags.maxLogLine ?? runtime.int("max_container_log_line_size") ?? 16_384;
  // containerd's "0s" waits for as long as anyone holds the output open, which turns a probe that leaves a daemon behind into a hang.
  const drain = flags.execDrain ?? (runtime.milliseconds("drain_exec_sync_io_timeout") || DEFAULT_DRAIN_MS);
  return {
    maxLogLine: line > 0 ? Math.min(line, LONGEST_LOG_LINE) : LONGEST_LOG_LINE,
    execDrainMs: drain,
    streamAddress: flags.streamAddress ?? streaming.string("stream_server_address") ?? "127.0.0.1",
    streamPort: flags.streamPort ?? portOf(streaming),
    streamIdleMs: streaming.milliseconds("stream_idle_timeout") ?? 4 * 3_600_000,
    streamTls: tlsOf(streaming),
    sandboxImage: images.string("pinned_images", "sandbox"),
    cniTemplate: templateOf(runtime, flags),
    enableCriu: runtime.bool("enable_criu") ?? true,
    restoreViaCreate: runtime.bool("enable_experimental_restore_via_create") ?? true,
    enableCdi: runtime.bool("enable_cdi") ?? true,
    cdiSpecDirs: runtime.strings("cdi_spec_dirs") ?? ["/etc/cdi", "/var/run/cdi"],
    unsetSeccompProfile: runtime.string("unset_seccomp_profile") ?? "",
    disableApparmor: runtime.bool("disable_apparmor") ?? false,
    restrictOomScoreAdj: runtime.bool("restrict_oom_score_adj") ?? false,
    tolerateMissingHugetlb: runtime.bool("tolerate_missing_hugetlb_controller") ?? true,
    disableHugetlb: runtime.bool("disable_hugetlb_controller") ?? false,
    deviceOwnershipFromSecurityContext: runtime.bool("device_ownership_from_security_context") ?? false,
    unprivilegedPorts: runtime.bool("enable_unprivileged_ports") ?? true,
    unprivilegedIcmp: runtime.bool("enable_unprivileged_icmp") ?? true,
    ipPreference: preferenceOf(runtime.below("cni")),
  };
}

function templateOf(runtime: Reader, flags: Flags): CriSettings["cniTemplate"] {
  const cni = runtime.below("cni");
  const file = cni.string("conf_template");
  return file === undefined ? undefined : { file, confDir: cniOf(cni, flags).confDir };
}

function portOf(streaming: Reader): number {
  const said = streaming.string("stream_server_port") ?? "0";
  const port = Number(said);
  if (!/^\d+$/.test(said) || port > 65_535)
    throw at(streaming.entry("stream_server_port"), `stream_server_port: "${said}" is not a port (0-65535)`);
  return port;
}

/** As containerd: with both files, with none a certificate of one's own, and nothing between. */
function tlsOf(streaming: Reader): CriSettings["streamTls"] {
  const pair = streaming.below("x509_key_pair_streaming");
  const [certFile, keyFile] = [pair.string("tls_cert_file"), pair.string("tls_key_file")];
  const said = pair.entry("tls_cert_file") ?? pair.entry("tls_key_file");
  if (streaming.bool("enable_tls_streaming") !== true) {
    if (certFile === undefined && keyFile === undefined) return undefined;
    throw at(
      said,
      "x509_key_pair_streaming: has an effect with enable_tls_streaming = true alone; set that, or leave it out",
    );
  }
  if (certFile === undefined && keyFile === undefined) return "self-signed";
  if (certFile === undefined || keyFile === undefined)
    throw at(said, "x509_key_pair_streaming: name both tls_cert_file and tls_key_file, or neither");
  return { certFile, keyFile };
}

function preferenceOf(cni: Reader): CriSettings["ipPreference"] {
  const said = cni.string("ip_pref") ?? "ipv4";
  if (said !== "ipv4" && said !== "ipv6" && said !== "cni")
    throw at(cni.entry("ip_pref"), `cni.ip_pref: "${said}" is none of ipv4, ipv6, cni`);
  return said;
}
