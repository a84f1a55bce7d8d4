/** The options of `berth run` and `berth create`, in nerdctl's spelling. */
import { type Command, Option } from "commander";
import { refused } from "../failure.ts";
import type { LimitFlags } from "./limits.ts";
import type { SecurityFlags } from "./security.ts";

export interface CreateFlags extends LimitFlags, SecurityFlags {
  readonly name?: string;
  readonly interactive?: boolean;
  readonly tty?: boolean;
  readonly rm?: boolean;
  readonly publish: readonly string[];
  readonly env: readonly string[];
  readonly envFile: readonly string[];
  readonly volume: readonly string[];
  readonly device: readonly string[];
  readonly storageOpt: readonly string[];
  readonly workdir?: string;
  readonly hostname?: string;
  readonly entrypoint?: string;
  readonly sysctl: readonly string[];
  readonly label: readonly string[];
  readonly annotation: readonly string[];
  readonly runtime?: string;
  readonly net?: string;
  readonly pull: "always" | "missing" | "never";
  readonly stopSignal?: string;
  readonly dns: readonly string[];
  readonly dnsSearch: readonly string[];
  readonly dnsOption: readonly string[];
}

export interface RunFlags extends CreateFlags {
  readonly detach?: boolean;
  readonly detachKeys: string;
}

/** What docker has and the CRI, or this version of berth, has not: option → the reason that a person gets. */
const REFUSED: Readonly<Record<string, string>> = {
  "--tmpfs <path>": "the CRI has no tmpfs mounts; bind a directory of a tmpfs with -v",
  "--mount <spec>": "use -v /source:/target[:options]",
  "--volumes-from <container>": "name each path with -v",
  "--ulimit <limit>": "the CRI has no rlimits",
  "--add-host <entry>": "the CRI has no host entries; bind a file with -v FILE:/etc/hosts",
  "--gpus <spec>": "use --device with a CDI device, as in --device nvidia.com/gpu=all",
  "--link <container>": "containers reach each other by the pods' IP addresses",
  "--ip <address>": "addresses are given by the CNI plugins of /etc/cni/net.d",
  "--mac-address <address>": "addresses are given by the CNI plugins of /etc/cni/net.d",
  "--shm-size <size>": "the CRI has no size of /dev/shm; it is 64 MiB",
  "--log-driver <name>": "logs are always CRI log files; see berth logs",
  "--log-opt <option>": "logs are always CRI log files; see berth logs",
  "--health-cmd <command>": "health checks are the kubelet's work",
  "--userns <mode>": "this version of berth makes no user namespaces",
  "--uts <mode>": "the host name belongs to the pod's network: use --network host",
  "--domainname <name>": "the CRI has no domain name",
  "--platform <platform>": "berth runs images of this machine's platform",
  "--cgroup-parent <path>": "cgroup parents are the kubelet's business",
};

const collect = (value: string, previous: readonly string[]): readonly string[] => [...previous, value];
const many = (flags: string, description: string): Option =>
  new Option(flags, description).default([]).argParser(collect);
const hidden = (flags: string): Option => new Option(flags).hideHelp();

export function defineCreateOptions(command: Command): void {
  basics(command);
  processOptions(command);
  storage(command);
  networking(command);
  limits(command);
  security(command);
  for (const [flags, reason] of Object.entries(REFUSED)) command.addOption(refusal(flags, reason));
  command.addOption(hidden("--restart <policy>").argParser(restartPolicy));
}

function basics(command: Command): void {
  command.option("--name <name>", "name of the container (default: one is made up)");
  command.option("--rm", "remove the container when it has ended");
  command.addOption(
    new Option("--pull <when>", "pull the image before").choices(["always", "missing", "never"]).default("missing"),
  );
  command.option("--runtime <handler>", "runtime handler, as listed by berth info");
  command.addOption(many("-l, --label <key=value>", "label; may be repeated"));
  command.addOption(many("--annotation <key=value>", "annotation of pod and container; may be repeated"));
}

function processOptions(command: Command): void {
  command.optionsGroup("Process options:");
  command.option("-i, --interactive", "give the container the input of this terminal or pipe");
  command.option("-t, --tty", "give the container a terminal");
  command.addOption(many("-e, --env <name[=value]>", "set a variable, or pass this shell's on; may be repeated"));
  command.addOption(many("--env-file <file>", "read variables from a file; may be repeated"));
  command.option("-w, --workdir <dir>", "working directory in the container");
  command.option("-u, --user <user[:gid]>", "user by name or number, group by number");
  command.addOption(many("--group-add <gid>", "supplementary group; may be repeated"));
  command.option("--entrypoint <program>", "replace the image's entry point and, with it, its command");
  command.option("--stop-signal <signal>", "what berth stop sends first (default: the image's, else TERM)");
}

function storage(command: Command): void {
  command.optionsGroup("Storage options:");
  command.addOption(
    many(
      "-v, --volume <source:target[:options]>",
      "bind a path of the host; options: ro, rro, rshared …; may be repeated",
    ),
  );
  command.addOption(many("--device <device>", "device node of the host, or CDI device; may be repeated"));
  command.option("--read-only", "make the root file system read-only");
  command.addOption(many("--storage-opt <option>", "size=SIZE: most that the container may write, as in size=10G"));
}

function networking(command: Command): void {
  command.optionsGroup("Network options:");
  command.addOption(
    many(
      "-p, --publish <[ip:]port:port[/proto]>",
      "reach a container's port (second) at a port of the host (first); may be repeated",
    ),
  );
  command.option("--network <mode>", "default, or host for the host's own network");
  command.addOption(hidden("--net <mode>"));
  command.option("-h, --hostname <name>", "host name in the container (default: its name)");
  command.addOption(many("--dns <address>", "DNS server; may be repeated"));
  command.addOption(many("--dns-search <domain>", "DNS search domain; may be repeated"));
  command.addOption(many("--dns-option <option>", "resolver option, as in ndots:2; may be repeated"));
  command.addOption(many("--sysctl <name=value>", "kernel setting of the pod's namespaces; may be repeated"));
}

function limits(command: Command): void {
  command.optionsGroup("Limits:");
  command.option("-m, --memory <size>", "most memory, as in 512m or 1g");
  command.option("--memory-swap <size>", "most memory and swap together; -1: no limit");
  command.option("--cpus <number>", "most CPU time, in CPUs, as in 1.5");
  command.option("--cpu-period <microseconds>", "length of the scheduler's period");
  command.option("--cpu-quota <microseconds>", "most CPU time in a period");
  command.option("--cpu-shares <number>", "weight against other containers; 1024 is usual");
  command.option("--cpuset-cpus <list>", "run on these CPUs only, as in 0-2,4");
  command.option("--cpuset-mems <list>", "use these memory nodes only");
  command.option("--pids-limit <number>", "most processes and threads; -1: no limit");
  command.option("--oom-score-adj <number>", "-1000 to 1000: who is killed first when memory runs out");
}

function security(command: Command): void {
  command.optionsGroup("Security options:");
  command.option("--privileged", "all capabilities and devices, no seccomp: as powerful as root on the host");
  command.addOption(many("--cap-add <capability>", "grant a capability, or ALL; may be repeated"));
  command.addOption(many("--cap-drop <capability>", "take a capability, or ALL; may be repeated"));
  command.addOption(
    many(
      "--security-opt <option>",
      "seccomp=unconfined|FILE, apparmor=unconfined|PROFILE, no-new-privileges; may be repeated",
    ),
  );
  command.option("--pid <mode>", "host: see the host's processes");
  command.option("--ipc <mode>", "host: share the host's System V and POSIX IPC");
}

function refusal(flags: string, reason: string): Option {
  return hidden(flags).argParser(() => {
    throw refused(flags.split(" ")[0] ?? flags, reason);
  });
}

function restartPolicy(policy: string): string {
  if (policy !== "no")
    throw refused(`--restart ${policy}`, "containers that are started again are the kubelet's work; use a static pod");
  return policy;
}
