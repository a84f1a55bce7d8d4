/** Debian's containerd, private to a test, with berth's shims on its PATH. */
import assert from "node:assert/strict";
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import {
  existsSync,
  globSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmdirSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { imageArchive } from "../../scripts/busybox-image.ts";

const BIN = new URL("../../bin/", import.meta.url).pathname;
/** Debian's plugins. */
export const CNI = "/usr/lib/cni";
export const IMAGE = "localhost/shim:1";
const BUSYBOX = "/bin/busybox";
const APPLETS = [
  "sh",
  "sleep",
  "true",
  "tty",
  "id",
  "echo",
  "cat",
  "stty",
  "ps",
  "touch",
  "test",
  "uname",
  "ls",
  "kill",
];
/** Also of what boots a machine while others work. */
export const LIMIT_MS = 240_000;

/** Undefined: it can be used. */
export function whyNoContainerd(): string | undefined {
  if (process.getuid?.() !== 0) return "needs root";
  if (!existsSync(BUSYBOX)) return "needs a static /bin/busybox";
  const missing = ["containerd", "ctr", "script"].find((name) => spawnSync("which", [name]).status !== 0);
  return missing === undefined ? undefined : `needs ${missing}`;
}

/** ctr-cni: a ctr that finds this containerd's CNI configuration where it looks for one. */
type Program = "ctr" | "ctr-cni" | "crictl" | "berth-vm";

/** Until it is disposed of. */
export interface Heard extends Disposable {
  /** "exit": of a task. */
  told(topic: string): boolean;
}

export interface Ran {
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

export interface ContainerdOptions {
  /** Of its CRI, by name: what stands in their tables, with @CRI@ for the table above and @DIRECTORY@. The first is the default. */
  readonly runtimes: Readonly<Record<string, string>>;
  /** Of the shims too. */
  readonly environment?: Readonly<Record<string, string>>;
  /** What stands in the CRI's cni table. */
  readonly cni?: string;
}

/** A containerd of this test's own, with berth's shims on its PATH. */
export class Containerd {
  readonly directory = mkdtempSync(join(tmpdir(), "berth-shim-"));
  /** Of its own: containers' cgroups are below one of that name. */
  readonly namespace = `berth-test-${process.pid}`;
  readonly environment: NodeJS.ProcessEnv;
  readonly #address = join(this.directory, "c.sock");
  readonly #log = join(this.directory, "log");
  /** Where berth's shims have their sockets and state. */
  readonly #shims = join(this.directory, "shims");
  #process: ChildProcess | undefined;

  constructor({ runtimes, environment, cni = "" }: ContainerdOptions) {
    const cri = `plugins."io.containerd.grpc.v1.cri"`;
    const tables = Object.entries(runtimes).map(([name, table]) => `[${cri}.containerd.runtimes.${name}]\n${table}`);
    this.environment = {
      ...process.env,
      ...environment,
      PATH: `${BIN.replace(/\/$/, "")}:${process.env["PATH"] ?? ""}`,
      CONTAINERD_NAMESPACE: this.namespace,
      BERTH_SHIM_STATE: this.#shims,
    };
    writeFileSync(
      join(this.directory, "config.toml"),
      `version = 2
root = "${this.directory}/root"
state = "${this.directory}/state"
[grpc]
  address = "${this.#address}"
[plugins."io.containerd.internal.v1.opt"]
  path = "${this.directory}/opt"
[${cri}]
  sandbox_image = "${IMAGE}"
  disable_tcp_service = true
  [${cri}.containerd]
    snapshotter = "native"
    default_runtime_name = "${Object.keys(runtimes)[0]}"
  [${cri}.cni]
    conf_dir = "${this.directory}/cni"
    ${cni}
${tables.map((table) => table.replaceAll("@CRI@", cri).replaceAll("@DIRECTORY@", this.directory)).join("\n")}
`,
    );
  }

  async start(): Promise<void> {
    const command = `exec containerd -c ${this.directory}/config.toml >>${this.#log} 2>&1`;
    this.#process = spawn("sh", ["-c", command], { stdio: "ignore", env: this.environment });
    await until("containerd's CRI answers", () => this.crictl("version").status === 0);
  }

  async load(): Promise<void> {
    const archive = join(this.directory, "image.tar");
    const links = APPLETS.map((name) => ({ path: `bin/${name}`, mode: 0o777, link: "busybox" }));
    const busybox = { path: "bin/busybox", mode: 0o755, content: readFileSync(BUSYBOX) };
    writeFileSync(archive, imageArchive(IMAGE, [busybox, ...links], { Cmd: ["/bin/sleep", "100000"] }));
    for (const namespace of [this.namespace, "k8s.io"])
      this.does("ctr", "-n", namespace, "images", "import", "--snapshotter", "native", archive);
    await until("the image is known", () => this.crictl("images").stdout.includes("localhost/shim"));
  }

  ctr(...args: readonly string[]): Ran {
    return this.fed("ctr", undefined, ...args);
  }

  crictl(...args: readonly string[]): Ran {
    return this.fed("crictl", undefined, ...args);
  }

  /** With something on its standard input, which ends then. */
  fed(program: Program, input: string | undefined, ...args: readonly string[]): Ran {
    return this.#run([...this.#command(program), ...args], input);
  }

  /** In a terminal, in which `input` is typed. */
  typed(program: Program, input: string, ...args: readonly string[]): Ran {
    const words = [...this.#command(program), ...args].map((word) => `'${word.replaceAll("'", `'\\''`)}'`);
    const command = ["script", "-qec", words.join(" "), "/dev/null"];
    // script(1) gives up when its input ends: a FIFO that it holds open itself never does.
    const keys = join(this.directory, "keys");
    const held = `rm -f ${keys}; mkfifo ${keys}; exec 3<>${keys}; printf %s "$1" >&3; shift; exec "$@" <&3`;
    return this.#run(["sh", "-ec", held, "sh", input, ...command]);
  }

  /** Its events from now on. */
  async listen(): Promise<Heard> {
    const file = join(this.directory, "events");
    const command = `exec ctr --address ${this.#address} events >${file}`;
    const listener = spawn("sh", ["-c", command], { env: this.environment });
    const said = (): string => (existsSync(file) ? readFileSync(file, "utf8") : "");
    // It says nothing when it has subscribed: something is made to happen until it hears of it.
    let probe = 0;
    await until("events are heard", () => {
      this.does("ctr", "namespaces", "label", this.namespace, `probe=${probe++}`);
      return said() !== "";
    });
    return {
      told: (topic) => said().includes(`/tasks/${topic} `),
      [Symbol.dispose]: () => void listener.kill(),
    };
  }

  /** What must succeed; without the newline. */
  does(program: Program, ...args: readonly string[]): string {
    const { status, stdout, stderr } = this.fed(program, undefined, ...args);
    assert.equal(status, 0, `${program} ${args.join(" ")}: ${stderr}${this.lastWords()}`);
    return stdout.trimEnd();
  }

  lastWords(): string {
    return readFileSync(this.#log, "utf8").split("\n").slice(-8).join("\n");
  }

  /** "RUNNING"; undefined: there is no such task. */
  taskState(id: string): string | undefined {
    return new RegExp(`^${id}\\s+\\d+\\s+(\\w+)`, "m").exec(this.does("ctr", "task", "ls"))?.[1];
  }

  /** The shim of a container of ctr's, by what it has written in the container's bundle. */
  address(id: string): string {
    const file = join(this.directory, "state/io.containerd.runtime.v2.task", this.namespace, id, "address");
    return readFileSync(file, "utf8").replace("unix://", "");
  }

  file(name: string, content: object): string {
    const path = join(this.directory, `${name}.json`);
    writeFileSync(path, JSON.stringify(content));
    return path;
  }

  async kill(signal: "SIGTERM" | "SIGKILL"): Promise<void> {
    const ended = new Promise((resolve) => this.#process?.once("exit", resolve));
    this.#process?.kill(signal);
    await ended;
  }

  /** Processes of berth's shims that serve its containers. */
  shims(): number[] {
    return readdirSync("/proc")
      .filter((name) => /^\d+$/.test(name))
      .filter((pid) => {
        try {
          const argv = readFileSync(`/proc/${pid}/cmdline`, "utf8");
          return /\/node\0.*\0-namespace\0/s.test(argv) && argv.includes(this.directory) && argv.endsWith("start\0");
        } catch (error) {
          if (["ENOENT", "ESRCH"].includes((error as NodeJS.ErrnoException).code ?? "")) return false;
          throw error;
        }
      })
      .map(Number);
  }

  /** Of virtual machines, whole ones. */
  templates(): string[] {
    return globSync(`${this.#shims}/templates/*/template.json`);
  }

  /** What is left of shims that have ended: sockets, directories of monitors and machines, mounts. Templates are to stay. */
  left(): string[] {
    const files = globSync(`${this.#shims}/{s,sbs,berth,berth/vm}/*`).filter((path) => !/\/(vm|seccomp)$/.test(path));
    const mounts = readFileSync("/proc/self/mountinfo", "utf8").split("\n");
    return [...files, ...mounts.filter((line) => line.includes(this.#shims))];
  }

  /** Ends it; cgroups' parents are nobody's to remove but who named them. */
  async end(): Promise<void> {
    await this.kill("SIGTERM");
    for (const group of globSync(`/sys/fs/cgroup/{,*/}${this.namespace}`)) removeEmpty(group);
    rmSync(this.directory, { recursive: true, force: true });
  }

  #command(program: Program): string[] {
    if (program === "ctr") return ["ctr", "--address", this.#address];
    if (program === "ctr-cni") {
      const places = `mount -t tmpfs none /etc; mkdir -p /etc/cni; ln -s ${this.directory}/cni /etc/cni/net.d
mount -t tmpfs none /opt; mkdir -p /opt/cni; ln -s ${CNI} /opt/cni/bin`;
      return ["unshare", "--mount", "sh", "-ec", `${places}\nexec ctr "$@"`, "ctr", "--address", this.#address];
    }
    if (program === "berth-vm") return [join(BIN, program), "--state", this.#shims];
    const endpoint = `unix://${this.#address}`;
    const own = ["--runtime-endpoint", endpoint, "--image-endpoint", endpoint, "--timeout", "200s"];
    return [join(BIN, program), ...own];
  }

  #run([program = "", ...args]: readonly string[], input?: string): Ran {
    const options = { encoding: "utf8", timeout: LIMIT_MS, env: this.environment, input } as const;
    const { status, stdout, stderr } = spawnSync(program, args, options);
    return { status, stdout, stderr };
  }
}

/** One that others use too stays. */
function removeEmpty(group: string): void {
  try {
    rmdirSync(group);
  } catch (error) {
    if (!["EBUSY", "ENOTEMPTY", "ENOENT"].includes((error as NodeJS.ErrnoException).code ?? "")) throw error;
  }
}

export async function until(what: string, condition: () => boolean): Promise<void> {
  for (const end = Date.now() + LIMIT_MS; !condition();) {
    assert.ok(Date.now() < end, `timed out waiting until ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}
