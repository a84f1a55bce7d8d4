/** berthd's command line. */
import { Command } from "commander";

export interface Options {
  readonly root: string;
  readonly state: string;
  readonly address: string;
  readonly netnsDir: string;
  readonly cniConfDir: string;
  readonly cniBinDir: readonly string[];
  readonly cniCacheDir: string;
  readonly hostsDir: string;
  readonly logLevel: string;
  readonly streamAddress: string;
  readonly streamPort: number;
  readonly maxLogLine: number;
  readonly execDrainMs: number;
  readonly bosun: string;
}

export interface Defaults {
  readonly version: string;
  readonly bosun: string;
}

const LEVELS = ["trace", "debug", "info", "warn", "error", "fatal"];

export function parseOptions(argv: readonly string[], defaults: Defaults): Options {
  const command = new Command("berthd")
    .description("The container runtime daemon of a Kubernetes node: serves the CRI (v1) on a unix socket.")
    .version(`berthd ${defaults.version}`, "-v, --version", "print the version and exit")
    .option("--root <dir>", "persistent data: images, snapshots, database", "/var/lib/berth")
    .option("--state <dir>", "data until the next boot: sockets, namespaces, monitors", "/run/berth")
    .option("-a, --address <socket>", "unix socket to serve on (default: berth.sock in the state directory)")
    .option("--netns-dir <dir>", "where network namespaces are pinned", "/run/netns")
    .option(
      "--cni-conf-dir <dir>",
      "CNI configuration; a default network is written when it has none",
      "/etc/cni/net.d",
    )
    .option("--cni-bin-dir <dir...>", "where CNI plugins are looked for", ["/opt/cni/bin", "/usr/lib/cni"])
    .option("--cni-cache-dir <dir>", "results of CNI calls", "/var/lib/cni")
    .option(
      "--hosts-dir <dir>",
      "registry mirrors and certificates: <dir>/<host>/hosts.toml, as containerd's certs.d",
      "/etc/berth/certs.d",
    )
    .option("--stream-address <ip>", "address of the streaming server (exec, attach)", "127.0.0.1")
    .option("--stream-port <port>", "its port; 0: any free one", wholeNumber, 0)
    .option("--max-log-line <bytes>", "longest line of a container's log before it is split", wholeNumber, 16_384)
    .option(
      "--exec-drain <ms>",
      "how long ExecSync waits for output that is still held open after its process exited",
      wholeNumber,
      500,
    )
    .option("-l, --log-level <level>", LEVELS.join(", "), "info")
    .option("--bosun <file>", "the bosun binary", defaults.bosun)
    .allowExcessArguments(false)
    .parse(argv, { from: "user" });
  const options = command.opts<{ address?: string; execDrain: number } & Omit<Options, "address" | "execDrainMs">>();
  if (!LEVELS.includes(options.logLevel))
    command.error(`error: --log-level "${options.logLevel}" is none of ${LEVELS.join(", ")}`);
  for (const name of ["root", "state", "netnsDir"] as const) {
    if (!options[name].startsWith("/"))
      command.error(`error: --${name === "netnsDir" ? "netns-dir" : name} "${options[name]}" is not an absolute path`);
  }
  return { ...options, address: options.address ?? `${options.state}/berth.sock`, execDrainMs: options.execDrain };
}

function wholeNumber(text: string): number {
  if (!/^\d+$/.test(text)) throw new Error(`"${text}" is not a whole number`);
  return Number(text);
}
