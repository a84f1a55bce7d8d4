/** Real containers for the tests: a busybox root file system, one hand, and a container's whole life in one call. */
import { access, cp, mkdir, mkdtemp, readFile, rm, symlink } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  cgroupRemoval,
  connectMonitor,
  killCgroup,
  oomCounter,
  probeHost,
  startHand,
  type Hand,
  type HostFacts,
  type MonitorLink,
  type MonitorState,
} from "@berth/kernel";
import type { oci } from "@berth/spec";
import { planContainer, type ContainerContext, type Planned } from "../../src/index.ts";

const BOSUN = new URL("../../../../.build/native/bosun", import.meta.url).pathname;
const BUSYBOX = "/bin/busybox";
const APPLETS = [
  "sh",
  "cat",
  "id",
  "ls",
  "mount",
  "true",
  "sleep",
  "stat",
  "hostname",
  "readlink",
  "touch",
  "mkdir",
  "ip",
  "env",
  "grep",
  "mknod",
  "tty",
  "stty",
  "unshare",
  "umount",
  "dd",
  "head",
  "echo",
  "wc",
  "ps",
  "ulimit",
  "nproc",
  "test",
  "uname",
  "date",
];

/** Why no container can be made here, or undefined. */
export async function whyNot(): Promise<string | undefined> {
  if (process.getuid?.() !== 0) return "needs root";
  if (!(await exists(BOSUN))) return "bosun is not built (packages/native/build)";
  if (!(await exists(BUSYBOX))) return "needs a static /bin/busybox";
  return undefined;
}

async function exists(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  );
}

export class Machine implements AsyncDisposable {
  readonly directory: string;
  readonly hand: Hand;
  readonly host: HostFacts;
  readonly rootfs: string;
  readonly #cgroups = new Set<string>();
  #next = 0;

  private constructor(directory: string, hand: Hand, host: HostFacts) {
    this.directory = directory;
    this.hand = hand;
    this.host = host;
    this.rootfs = join(directory, "rootfs");
  }

  static async start(): Promise<Machine> {
    const directory = await mkdtemp(join(tmpdir(), "berth-runtime-"));
    const hand = await startHand({ bosun: BOSUN, state: join(directory, "state") });
    const machine = new Machine(directory, hand, await probeHost(hand));
    await makeRootfs(machine.rootfs);
    return machine;
  }

  /** A cgroup of this test run's own; removed at the end. */
  cgroup(): string {
    const path = `/berth-test-${process.pid}/c${this.#next++}`;
    this.#cgroups.add(path);
    return path;
  }

  context(overrides: Partial<ContainerContext> = {}): ContainerContext {
    return {
      id: `test${this.#next}`,
      rootfs: { kind: "path", path: this.rootfs },
      cgroup: { path: this.cgroup() },
      host: this.host,
      terminal: false,
      ...overrides,
    };
  }

  /** Creates a container up to its parked process. */
  async create(spec: oci.Spec, overrides: Partial<ContainerContext> = {}): Promise<Running> {
    const context = this.context(overrides);
    const planned = planContainer(spec, context);
    return await this.createPlanned(planned, context);
  }

  async createPlanned(planned: Planned, context: ContainerContext): Promise<Running> {
    const dir = await mkdtemp(join(this.directory, "monitor-"));
    const logPath = join(dir, "log");
    const { height: rows, width: columns } = context.consoleSize ?? { height: 24, width: 80 };
    const terminal = context.terminal ? { rows, columns } : undefined;
    const created = await this.hand.monitor({
      dir,
      plan: planned.plan,
      logPath,
      terminal,
      oom: oomCounter(context.cgroup.path, this.host),
    });
    return {
      link: await connectMonitor(dir, planned.plan),
      pid: created.pid,
      logPath,
      context,
      warnings: planned.warnings,
      dir,
    };
  }

  /** Runs a shell script as the container's process, to its end. */
  async run(
    script: string,
    change: (spec: oci.Spec) => oci.Spec = (spec) => spec,
    overrides: Partial<ContainerContext> = {},
  ): Promise<Outcome> {
    const running = await this.create(change(shellSpec(script)), overrides);
    try {
      await running.link.start();
      const state = await running.link.exited;
      return { ...(await readLog(running.logPath)), state, warnings: running.warnings };
    } finally {
      await this.end(running);
    }
  }

  async end({ link, context }: Running): Promise<void> {
    await killCgroup(context.cgroup.path, this.host);
    await link.exited.catch(() => {});
    link.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const path of this.#cgroups) {
      await killCgroup(path, this.host);
      await this.hand.run(cgroupRemoval(path, this.host));
    }
    await this.hand.run(cgroupRemoval(`/berth-test-${process.pid}`, this.host));
    await this.hand.close();
    await rm(this.directory, { recursive: true, force: true });
  }
}

export interface Running {
  readonly link: MonitorLink;
  readonly pid: number;
  readonly logPath: string;
  readonly dir: string;
  readonly context: ContainerContext;
  readonly warnings: readonly string[];
}

export interface Outcome {
  readonly stdout: string;
  readonly stderr: string;
  readonly state: MonitorState;
  readonly warnings: readonly string[];
}

export async function makeRootfs(path: string): Promise<void> {
  for (const directory of ["bin", "etc", "tmp", "root", "var", "run"])
    await mkdir(join(path, directory), { recursive: true });
  await cp(BUSYBOX, join(path, "bin/busybox"));
  for (const applet of APPLETS) await symlink("busybox", join(path, "bin", applet));
}

/** The streams of a CRI log, joined again. */
async function readLog(path: string): Promise<{ stdout: string; stderr: string }> {
  const streams = { stdout: "", stderr: "" };
  for (const line of (await readFile(path, "utf8")).split("\n")) {
    const match = /^\S+ (stdout|stderr) ([FP]) (.*)$/s.exec(line);
    if (match?.[1] === "stdout" || match?.[1] === "stderr")
      streams[match[1]] += match[2] === "F" ? `${match[3]}\n` : match[3];
  }
  return streams;
}

const CAPABILITIES = [
  "CAP_CHOWN",
  "CAP_DAC_OVERRIDE",
  "CAP_FOWNER",
  "CAP_MKNOD",
  "CAP_NET_RAW",
  "CAP_SETGID",
  "CAP_SETUID",
  "CAP_SETPCAP",
  "CAP_KILL",
];

/** What a container engine would ask for, as root, running `sh -c script`. */
export function shellSpec(script: string): oci.Spec {
  return {
    ociVersion: "1.3.0",
    process: {
      user: { uid: 0, gid: 0 },
      args: ["/bin/sh", "-c", script],
      env: ["PATH=/bin"],
      cwd: "/",
      capabilities: { bounding: CAPABILITIES, effective: CAPABILITIES, permitted: CAPABILITIES },
      noNewPrivileges: true,
    },
    root: { path: "rootfs" },
    hostname: "berth-test",
    mounts: standardMounts(),
    linux: {
      namespaces: [
        { type: "pid" },
        { type: "network" },
        { type: "ipc" },
        { type: "uts" },
        { type: "mount" },
        { type: "cgroup" },
      ],
      maskedPaths: ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/scsi", "/sys/firmware"],
      readonlyPaths: ["/proc/sys", "/proc/irq", "/proc/bus", "/proc/sysrq-trigger"],
    },
  };
}

function standardMounts(): oci.Mount[] {
  return [
    { destination: "/proc", type: "proc", source: "proc", options: ["nosuid", "noexec", "nodev"] },
    {
      destination: "/dev",
      type: "tmpfs",
      source: "tmpfs",
      options: ["nosuid", "strictatime", "mode=755", "size=65536k"],
    },
    {
      destination: "/dev/pts",
      type: "devpts",
      source: "devpts",
      options: ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
    },
    {
      destination: "/dev/shm",
      type: "tmpfs",
      source: "shm",
      options: ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"],
    },
    { destination: "/dev/mqueue", type: "mqueue", source: "mqueue", options: ["nosuid", "noexec", "nodev"] },
    { destination: "/sys", type: "sysfs", source: "sysfs", options: ["nosuid", "noexec", "nodev", "ro"] },
    {
      destination: "/sys/fs/cgroup",
      type: "cgroup",
      source: "cgroup",
      options: ["nosuid", "noexec", "nodev", "relatime", "ro"],
    },
  ];
}

/** `spec` with its `process` or `linux` changed. */
export function withProcess(change: Partial<oci.Process>): (spec: oci.Spec) => oci.Spec {
  return (spec) => ({ ...spec, process: { ...(spec.process as oci.Process), ...change } });
}

export function withLinux(change: Partial<oci.Linux>): (spec: oci.Spec) => oci.Spec {
  return (spec) => ({ ...spec, linux: { ...spec.linux, ...change } });
}
