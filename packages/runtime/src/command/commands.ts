/** The commands of an OCI runtime, as runc has them: names, arguments, flags, and where each one's code is. */
import type { Command } from "./context.ts";
import type { Flag } from "./flags.ts";

export interface CommandSpec {
  readonly name: string;
  readonly summary: string;
  /** Arguments, for help. */
  readonly usage: string;
  readonly description?: string;
  readonly flags: readonly Flag[];
  /** How many; `most` undefined: any number. */
  readonly args: { readonly least: number; readonly most?: number };
  /** What follows the first argument belongs to it. */
  readonly stopAtFirst?: boolean;
  readonly hidden?: boolean;
  /** What its errors begin with, and the status that they exit with where it is not 1. */
  readonly failure?: string;
  readonly failureStatus?: number;
  readonly load: () => Promise<{ readonly command: Command }>;
}

const text = (name: string, usage: string, more: Partial<Flag> = {}): Flag => ({ name, kind: "text", usage, ...more });
const number = (name: string, usage: string, more: Partial<Flag> = {}): Flag => ({
  name,
  kind: "number",
  usage,
  ...more,
});
const texts = (name: string, usage: string, more: Partial<Flag> = {}): Flag => ({
  name,
  kind: "texts",
  usage,
  ...more,
});
const boolean = (name: string, usage: string, more: Partial<Flag> = {}): Flag => ({
  name,
  kind: "boolean",
  usage,
  ...more,
});

const BUNDLE = text("bundle", "path to the root of the bundle directory, defaults to the current directory", {
  short: "b",
});
const CONSOLE = text(
  "console-socket",
  "path to an AF_UNIX socket which will receive a file descriptor referencing the master end of the console's pseudoterminal",
);
const PIDFD = text(
  "pidfd-socket",
  "path to an AF_UNIX socket which will receive a file descriptor referencing the init process",
);
const PID_FILE = text("pid-file", "specify the file to write the process id to");
const DETACH = boolean("detach", "detach from the container's process", { short: "d" });
const NO_PIVOT = boolean(
  "no-pivot",
  "do not use pivot root to jail process inside rootfs.  This should be used whenever the rootfs is on top of a ramdisk",
);
const NO_SUBREAPER = boolean("no-subreaper", "disable the use of the subreaper used to reap reparented processes");
const PRESERVE = number(
  "preserve-fds",
  "Pass N additional file descriptors to the container (stdio + $LISTEN_FDS + N in total)",
  { default: "0" },
);
const CREATION: readonly Flag[] = [
  BUNDLE,
  CONSOLE,
  PIDFD,
  PID_FILE,
  NO_PIVOT,
  boolean(
    "no-new-keyring",
    "do not create a new session keyring for the container.  This will cause the container to inherit the calling processes session key",
  ),
  PRESERVE,
  boolean("plan", "print every order that would make the container, and do nothing"),
  boolean("json", "with --plan: as JSON"),
];
const IMAGE: readonly Flag[] = [
  text("image-path", "path for saving or loading criu image files"),
  text("work-path", "path for saving work files and logs"),
  boolean("tcp-established", "allow open tcp connections"),
  boolean("ext-unix-sk", "allow external unix sockets"),
  boolean("shell-job", "allow shell jobs"),
  boolean("lazy-pages", "use userfaultfd to lazily restore memory pages"),
  boolean("file-locks", "handle file locks, for safety"),
  text("manage-cgroups-mode", "cgroups mode: soft|full|strict|ignore (default: soft)"),
  texts("empty-ns", "create a namespace, but don't restore its properties"),
  boolean("auto-dedup", "enable auto deduplication of memory images"),
];
const CONTAINER = "<container-id>";
const ONE = { least: 1, most: 1 } as const;

export const COMMANDS: readonly CommandSpec[] = [
  {
    name: "checkpoint",
    summary: "checkpoint a running container",
    usage: CONTAINER,
    description: "The checkpoint command saves the state of the container instance.",
    args: ONE,
    flags: [
      ...IMAGE,
      text("parent-path", "path for previous criu image files in pre-dump"),
      boolean("leave-running", "leave the process running after checkpointing"),
      boolean("tcp-skip-in-flight", "skip in-flight tcp connections"),
      boolean("link-remap", "allow one to link unlinked files back when possible"),
      number("status-fd", "criu writes \\0 to this FD once lazy-pages is ready", { default: "-1" }),
      text("page-server", "ADDRESS:PORT of the page server"),
      boolean("pre-dump", "dump container's memory information only, leave the container running after this"),
    ],
    load: () => import("../verbs/checkpoint.ts"),
  },
  {
    name: "create",
    summary: "create a container",
    usage: CONTAINER,
    description: `The create command creates an instance of a container for a bundle. The bundle
is a directory with a specification file named "config.json" and a root
filesystem.`,
    args: ONE,
    flags: CREATION,
    failure: "runc create failed: ",
    load: () => import("../verbs/create.ts"),
  },
  {
    name: "delete",
    summary: "delete any resources held by the container often used with detached container",
    usage: CONTAINER,
    args: ONE,
    flags: [boolean("force", "Forcibly deletes the container if it is still running (uses SIGKILL)", { short: "f" })],
    load: () => import("../verbs/delete.ts"),
  },
  {
    name: "events",
    summary: "display container events such as OOM notifications, cpu, memory, and IO usage statistics",
    usage: CONTAINER,
    args: ONE,
    flags: [
      { name: "interval", kind: "duration", usage: "set the stats collection interval", default: "5s" },
      boolean("stats", "display the container's stats then exit"),
    ],
    load: () => import("../verbs/events.ts"),
  },
  {
    name: "exec",
    summary: "execute new process inside the container",
    usage: `${CONTAINER} <command> [command options]  || -p process.json <container-id>`,
    args: { least: 1 },
    stopAtFirst: true,
    failure: "exec failed: ",
    failureStatus: 255,
    flags: [
      CONSOLE,
      PIDFD,
      text("cwd", "current working directory in the container"),
      texts("env", "set environment variables", { short: "e" }),
      boolean("tty", "allocate a pseudo-TTY", { short: "t" }),
      text("user", "UID (format: <uid>[:<gid>])", { short: "u" }),
      { name: "additional-gids", kind: "numbers", usage: "additional gids", short: "g" },
      text("process", "path to the process.json", { short: "p" }),
      DETACH,
      PID_FILE,
      text("process-label", "set the asm process label for the process commonly used with selinux"),
      text("apparmor", "set the apparmor profile for the process"),
      boolean("no-new-privs", "set the no new privileges value for the process"),
      texts("cap", "add a capability to the bounding set for the process", { short: "c" }),
      PRESERVE,
      texts("cgroup", "run the process in an (existing) sub-cgroup(s). Format is [<controller>:]<cgroup>."),
      boolean("ignore-paused", "allow exec in a paused container"),
      boolean("no-subreaper", "disable the use of the subreaper used to reap reparented processes", { hidden: true }),
    ],
    load: () => import("../verbs/exec.ts"),
  },
  {
    name: "features",
    summary: "show the enabled features",
    usage: "",
    args: { least: 0, most: 0 },
    flags: [],
    load: () => import("../verbs/features.ts"),
  },
  {
    name: "init",
    summary: "initialize the namespaces and launch the process (do not call it outside of berth-runc)",
    usage: "",
    args: { least: 0 },
    flags: [],
    hidden: true,
    load: () => import("../verbs/init.ts"),
  },
  {
    name: "kill",
    summary: "kill sends the specified signal (default: SIGTERM) to the container's init process",
    usage: `${CONTAINER} [signal]`,
    args: { least: 1, most: 2 },
    stopAtFirst: true,
    flags: [boolean("all", "(obsoleted, do not use)", { short: "a", hidden: true })],
    load: () => import("../verbs/kill.ts"),
  },
  {
    name: "list",
    summary: "lists containers started by berth-runc with the given root",
    usage: "",
    args: { least: 0, most: 0 },
    flags: [
      text("format", "select one of: table or json", { short: "f", default: "table" }),
      boolean("quiet", "display only container IDs", { short: "q" }),
    ],
    load: () => import("../verbs/list.ts"),
  },
  {
    name: "pause",
    summary: "pause suspends all processes inside the container",
    usage: CONTAINER,
    args: ONE,
    flags: [],
    load: () => import("../verbs/pause.ts"),
  },
  {
    name: "ps",
    summary: "ps displays the processes running inside a container",
    usage: `${CONTAINER} [ps options]`,
    args: { least: 1 },
    stopAtFirst: true,
    flags: [text("format", "select one of: table or json", { short: "f", default: "table" })],
    load: () => import("../verbs/ps.ts"),
  },
  {
    name: "restore",
    summary: "restore a container from a previous checkpoint",
    usage: CONTAINER,
    args: ONE,
    flags: [
      CONSOLE,
      ...IMAGE,
      BUNDLE,
      DETACH,
      PID_FILE,
      NO_SUBREAPER,
      NO_PIVOT,
      text("lsm-profile", "Specify an LSM profile to be used during restore in the form of TYPE:NAME."),
      text("lsm-mount-context", "Specify an LSM mount context to be used during restore."),
    ],
    load: () => import("../verbs/restore.ts"),
  },
  {
    name: "resume",
    summary: "resumes all processes that have been previously paused",
    usage: CONTAINER,
    args: ONE,
    flags: [],
    load: () => import("../verbs/resume.ts"),
  },
  {
    name: "run",
    summary: "create and run a container",
    usage: CONTAINER,
    args: ONE,
    failure: "runc run failed: ",
    flags: [...CREATION, DETACH, boolean("keep", "do not delete the container after it exits"), NO_SUBREAPER],
    load: () => import("../verbs/run.ts"),
  },
  {
    name: "spec",
    summary: "create a new specification file",
    usage: "",
    args: { least: 0, most: 0 },
    flags: [
      text("bundle", "path to the root of the bundle directory", { short: "b" }),
      boolean("rootless", "generate a configuration for a rootless container"),
    ],
    load: () => import("../verbs/spec.ts"),
  },
  {
    name: "start",
    summary: "executes the user defined process in a created container",
    usage: CONTAINER,
    args: ONE,
    flags: [],
    load: () => import("../verbs/start.ts"),
  },
  {
    name: "state",
    summary: "output the state of a container",
    usage: CONTAINER,
    args: ONE,
    flags: [],
    load: () => import("../verbs/state.ts"),
  },
  {
    name: "update",
    summary: "update container resource constraints",
    usage: CONTAINER,
    args: ONE,
    flags: [
      text("resources", 'path to the file containing the resources to update or "-" to read from the standard input', {
        short: "r",
      }),
      number("blkio-weight", "Specifies per cgroup weight, range is from 10 to 1000", { default: "0" }),
      text("cpu-period", "CPU CFS period to be used for hardcapping (in usecs). 0 to use system default"),
      text("cpu-quota", "CPU CFS hardcap limit (in usecs). Allowed cpu time in a given period"),
      text(
        "cpu-burst",
        "CPU CFS hardcap burst limit (in usecs). Allowed accumulated cpu time additionally for burst a given period",
      ),
      text("cpu-share", "CPU shares (relative weight vs. other containers)"),
      text("cpu-rt-period", "CPU realtime period to be used for hardcapping (in usecs). 0 to use system default"),
      text("cpu-rt-runtime", "CPU realtime hardcap limit (in usecs). Allowed cpu time in a given period"),
      text("cpuset-cpus", "CPU(s) to use"),
      text("cpuset-mems", "Memory node(s) to use"),
      text("kernel-memory", "(obsoleted; do not use)", { hidden: true }),
      text("kernel-memory-tcp", "(obsoleted; do not use)", { hidden: true }),
      text("memory", "Memory limit (in bytes)"),
      text("memory-reservation", "Memory reservation or soft_limit (in bytes)"),
      text("memory-swap", "Total memory usage (memory + swap); set '-1' to enable unlimited swap"),
      number("pids-limit", "Maximum number of pids allowed in the container", { default: "0" }),
      text("l3-cache-schema", "The string of Intel RDT/CAT L3 cache schema"),
      text("mem-bw-schema", "The string of Intel RDT/MBA memory bandwidth schema"),
      text("cpu-idle", "set cgroup SCHED_IDLE or not, 0: default behavior, 1: SCHED_IDLE"),
    ],
    load: () => import("../verbs/update.ts"),
  },
];

export const GLOBAL_FLAGS: readonly Flag[] = [
  boolean("debug", "enable debug logging"),
  text("log", "set the log file to write berth-runc logs to (default is '/dev/stderr')"),
  text("log-format", "set the log format ('text' (default), or 'json')", { default: "text" }),
  text("root", "root directory for storage of container state (this should be located in tmpfs)", {
    default: "/run/runc",
  }),
  text("criu", "(obsoleted; do not use)", { hidden: true }),
  boolean(
    "systemd-cgroup",
    'enable systemd cgroup support, expects cgroupsPath to be of form "slice:prefix:name" for e.g. "system.slice:runc:434234"',
  ),
  text("rootless", "ignore cgroup permission errors ('true', 'false', or 'auto')", { default: "auto" }),
];
