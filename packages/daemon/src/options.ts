/** berthd's command line: what it sets counts more than the configuration file. */
import { SNAPSHOTTERS, type SnapshotterName } from "@berth/image";
import { Command, InvalidArgumentError, Option } from "commander";

/** What the command line said; absent: nothing. */
export interface Flags {
  readonly config?: string;
  readonly root?: string;
  readonly state?: string;
  readonly address?: string;
  readonly netnsDir?: string;
  readonly cniConfDir?: string;
  readonly cniBinDir?: readonly string[];
  readonly cniCacheDir?: string;
  readonly hostsDir?: string;
  readonly signaturePolicy?: string;
  readonly authFile?: string;
  readonly snapshotter?: SnapshotterName;
  readonly logLevel?: string;
  readonly streamAddress?: string;
  readonly streamPort?: number;
  readonly maxLogLine?: number;
  readonly execDrain?: number;
  readonly metricsAddress?: string;
  readonly bosun?: string;
}

export interface ConfigCall {
  readonly verb: "default" | "dump" | "migrate" | "check";
  /** Of what is printed. */
  readonly version: 2 | 3 | 4;
  /** check: whether warnings count as errors. */
  readonly strict: boolean;
}

export interface Invocation {
  readonly flags: Flags;
  /** `berthd config …` rather than the daemon. */
  readonly config?: ConfigCall;
}

export const DEFAULT_CONFIG = "/etc/berth/config.toml";
const LEVELS = ["trace", "debug", "info", "warn", "error", "fatal"];
const DIRECTORIES = ["root", "state", "netnsDir"] as const;

export function parseCommandLine(argv: readonly string[], version: string): Invocation {
  let config: ConfigCall | undefined;
  const command = daemonCommand(version);
  const group = command.command("config").description("print or check the configuration").helpCommand(false);
  for (const [verb, about] of CONFIG_VERBS) {
    const sub = group.command(verb).description(about).allowExcessArguments(false);
    if (verb === "check") sub.option("--strict", "fail on warnings too");
    else
      sub.addOption(
        new Option("--version <n>", "containerd's version of the format").choices(["2", "3", "4"]).default("3"),
      );
    sub.action((options: { version?: string; strict?: boolean }) => {
      config = { verb, version: Number(options.version ?? 3) as 2 | 3 | 4, strict: options.strict === true };
    });
  }
  command.action(() => {}).parse(argv, { from: "user" });
  const flags = command.opts<Flags>();
  for (const name of DIRECTORIES) {
    const dir = flags[name];
    if (dir !== undefined && !dir.startsWith("/"))
      command.error(`error: --${name === "netnsDir" ? "netns-dir" : name} "${dir}" is not an absolute path`);
  }
  return { flags, ...(config && { config }) };
}

const CONFIG_VERBS = [
  ["default", "what is in force without a file, in the form of containerd's own file"],
  ["dump", "what is in force: the defaults, and over them what the file and its imports say"],
  ["migrate", "what the file and its imports say, in another version of the format"],
  ["check", "what is wrong with the file, or has no effect, line by line"],
] as const;

function daemonCommand(version: string): Command {
  return (
    new Command("berthd")
      .description("The container runtime daemon of a Kubernetes node: serves the CRI (v1) on a unix socket.")
      .version(`berthd ${version}`, "-v, --version", "print the version and exit")
      // `berthd config default --version 2` is the subcommand's.
      .enablePositionalOptions()
      .option(
        "-c, --config <file>",
        `configuration, in containerd's format (default: ${DEFAULT_CONFIG}, if it is there)`,
      )
      .option("--root <dir>", "persistent data: images, snapshots, database (default: /var/lib/berth)")
      .option("--state <dir>", "data until the next boot: sockets, namespaces, monitors (default: /run/berth)")
      .option("-a, --address <socket>", "unix socket to serve on (default: berth.sock in the state directory)")
      .option("--netns-dir <dir>", "where network namespaces are pinned (default: /run/netns)")
      .option(
        "--cni-conf-dir <dir>",
        "CNI configuration; a default network is written when it has none (default: /etc/cni/net.d)",
      )
      .option("--cni-bin-dir <dir...>", "where CNI plugins are looked for (default: /opt/cni/bin and /usr/lib/cni)")
      .option("--cni-cache-dir <dir>", "results of CNI calls (default: /var/lib/cni)")
      .option(
        "--hosts-dir <dir>",
        "registry mirrors and certificates: <dir>/<host>/hosts.toml, as containerd's certs.d (default: /etc/berth/certs.d)",
      )
      .option(
        "--auth-file <file>",
        "docker's config.json, for what is pulled and pushed without credentials of the caller's (default: none)",
      )
      .option(
        "--signature-policy <file>",
        "which images may be pulled, as containers-policy.json(5) says it (default: all)",
      )
      .addOption(
        new Option(
          "--snapshotter <name>",
          "how layers are kept (default: the first that works on the root directory)",
        ).choices(SNAPSHOTTERS),
      )
      .option("--stream-address <ip>", "address of the streaming server (exec, attach) (default: 127.0.0.1)")
      .option("--stream-port <port>", "its port; 0: any free one (default: 0)", wholeNumber)
      .option(
        "--max-log-line <bytes>",
        "longest line of a container's log before it is split (default: 16384)",
        wholeNumber,
      )
      .option(
        "--exec-drain <ms>",
        "how long ExecSync waits for output that is still held open after its process exited (default: 500)",
        wholeNumber,
      )
      .option("--metrics-address <ip:port>", "where Prometheus finds /v1/metrics (default: nowhere)")
      .addOption(new Option("-l, --log-level <level>", "how much is logged (default: info)").choices(LEVELS))
      .option("--bosun <file>", "the bosun binary")
      .allowExcessArguments(false)
  );
}

function wholeNumber(text: string): number {
  if (!/^\d+$/.test(text)) throw new InvalidArgumentError(`"${text}" is not a whole number`);
  return Number(text);
}
