/** A berthd of a test's own: directories, network and socket in a temporary place, started as a process, so that it can be killed. */
import { type ChildProcess, spawn } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { fileURLToPath } from "node:url";
import { type Client, connect } from "@berth/cli";
import { claim } from "./claims.ts";
import { busyboxArchive } from "./image.ts";

export const checkout = fileURLToPath(new URL("../..", import.meta.url)).replace(/\/$/, "");
export const IMAGE = "localhost/berth-test/busybox:latest";

export interface DaemonOptions {
  readonly args?: readonly string[];
  /** Text of its configuration file; the directories are the command line's. */
  readonly config?: string;
  /** Over the test's own environment. */
  readonly env?: Readonly<Record<string, string>>;
  /** Kills itself (SIGKILL) when this step of this operation begins, as in "RunPodSandbox:make the namespaces". */
  readonly dieAt?: string;
}

export class TestDaemon {
  readonly dir: string;
  readonly root: string;
  readonly state: string;
  readonly netns: string;
  readonly socket: string;
  readonly bridge: string;
  readonly cniDir: string;
  #child: ChildProcess | undefined;
  #client: Client | undefined;

  /** `network`: no other daemon's at this moment. */
  private constructor(network: number) {
    this.dir = mkdtempSync(`${tmpdir()}/berth-test-`);
    this.root = `${this.dir}/root`;
    this.state = `${this.dir}/state`;
    this.netns = `${this.dir}/netns`;
    this.socket = `${this.state}/berth.sock`;
    this.cniDir = `${this.dir}/cni`;
    this.bridge = `bt${network.toString(16)}`;
    for (const dir of [this.cniDir, `${this.dir}/leases`, `${this.dir}/cni-cache`]) mkdirSync(dir, { recursive: true });
    const subnet = `10.${100 + (network >> 8)}.${network & 0xff}.0/24`;
    const ipam = {
      type: "host-local",
      ranges: [[{ subnet }]],
      routes: [{ dst: "0.0.0.0/0" }],
      dataDir: `${this.dir}/leases`,
    };
    const plugins = [
      { type: "bridge", bridge: this.bridge, isGateway: true, ipMasq: true, hairpinMode: true, ipam },
      { type: "portmap", capabilities: { portMappings: true } },
    ];
    writeFileSync(
      `${this.cniDir}/10-test.conflist`,
      JSON.stringify({ cniVersion: "1.0.0", name: this.bridge, plugins }),
    );
  }

  /** Running, with the busybox image in its store. */
  static async start(options: DaemonOptions = {}): Promise<TestDaemon> {
    const daemon = new TestDaemon(await claim("network", 100 << 8));
    writeFileSync(daemon.configFile, options.config ?? "version = 3\n");
    await daemon.startAgain(options);
    await daemon.load(await busyboxArchive(daemon.dir, IMAGE));
    return daemon;
  }

  get client(): Client {
    return (this.#client ??= connect(this.socket));
  }

  get pid(): number {
    if (this.#child?.pid === undefined) throw new Error("the daemon does not run");
    return this.#child.pid;
  }

  get log(): string {
    return readFileSync(`${this.dir}/berthd.log`, "utf8");
  }

  get configFile(): string {
    return `${this.dir}/config.toml`;
  }

  /** Replaces the configuration file and has it read; resolves when the daemon has said what came of it. */
  async reload(config: string): Promise<void> {
    writeFileSync(this.configFile, config);
    const child = this.#child;
    if (!child?.stdout) throw new Error("the daemon does not run");
    const { promise, resolve } = Promise.withResolvers<void>();
    const look = (chunk: Buffer): void => {
      if (/the configuration (was read again|stays as it was)/.test(chunk.toString())) resolve();
    };
    child.stdout.on("data", look);
    child.kill("SIGHUP");
    await promise;
    child.stdout.off("data", look);
  }

  async startAgain(options: DaemonOptions = {}): Promise<void> {
    const main =
      options.dieAt === undefined
        ? `${checkout}/packages/daemon/src/main.ts`
        : `${checkout}/tests/support/dying-berthd.ts`;
    const argv = [
      "--disable-warning=ExperimentalWarning",
      main,
      "--config",
      this.configFile,
      "--root",
      this.root,
      "--state",
      this.state,
      "--netns-dir",
      this.netns,
      "--cni-conf-dir",
      this.cniDir,
      "--cni-bin-dir",
      "/usr/lib/cni",
      "--cni-cache-dir",
      `${this.dir}/cni-cache`,
      ...(options.args ?? []),
    ];
    const env = { ...process.env, ...options.env, ...(options.dieAt !== undefined && { DIE_AT: options.dieAt }) };
    const child = spawn(process.execPath, argv, { stdio: ["ignore", "pipe", "pipe"], env });
    this.#child = child;
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    let output = "";
    const collect = (chunk: Buffer): void => {
      output += chunk.toString();
      writeFileSync(`${this.dir}/berthd.log`, chunk, { flag: "a" });
      if (output.includes("berthd is ready")) resolve();
    };
    child.stdout.on("data", collect);
    child.stderr.on("data", collect);
    child.once("exit", (code, signal) => {
      reject(new Error(`berthd ended (${code ?? signal}) before it was ready:\n${output}`));
      if (code !== null && code !== 0) process.stderr.write(`berthd ended with ${code}:\n${output.slice(-4000)}\n`);
    });
    await promise;
  }

  async load(archive: string): Promise<void> {
    await run([`${checkout}/bin/berth`, "--address", this.socket, "load", "-i", archive]);
  }

  /** Resolves when the process is gone; its containers run on. */
  async kill(signal: NodeJS.Signals): Promise<void> {
    this.#client?.close();
    this.#client = undefined;
    const child = this.#child;
    if (!child) return;
    const gone = this.gone();
    child.kill(signal);
    await gone;
  }

  gone(): Promise<void> {
    const child = this.#child;
    if (!child || child.exitCode !== null || child.signalCode !== null) return Promise.resolve();
    const { promise, resolve } = Promise.withResolvers<void>();
    child.once("exit", () => resolve());
    return promise;
  }

  /** Removes every pod, stops the daemon and takes its directories away. */
  async [Symbol.asyncDispose](): Promise<void> {
    const { items } = await this.client.runtime.listPodSandbox({});
    for (const { id } of items) await this.client.runtime.removePodSandbox({ podSandboxId: id });
    await this.kill("SIGTERM");
    await run(["sh", "-c", `ip link delete ${this.bridge} 2>/dev/null; umount ${this.netns} 2>/dev/null; true`]);
    rmSync(this.dir, { recursive: true, force: true });
  }
}

/** Runs to the end and answers its output; a non-zero status is an error that shows it. */
export function run(argv: readonly string[]): Promise<string> {
  const [program = "", ...args] = argv;
  const child = spawn(program, args, { stdio: ["ignore", "pipe", "pipe"] });
  let output = "";
  child.stdout.on("data", (chunk: Buffer) => (output += chunk.toString()));
  child.stderr.on("data", (chunk: Buffer) => (output += chunk.toString()));
  const { promise, resolve, reject } = Promise.withResolvers<string>();
  child.once("error", reject);
  child.once("close", (code) =>
    code === 0 ? resolve(output) : reject(new Error(`${argv.join(" ")} ended with ${code}:\n${output}`)),
  );
  return promise;
}
