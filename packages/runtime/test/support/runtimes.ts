/** OCI runtimes as commands: berth-runc, and the runc of the machine, which the same tests must pass on. */
import { spawn, spawnSync } from "node:child_process";
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { oci } from "@berth/spec";

export const BERTH_RUNC = new URL("../../../../bin/berth-runc", import.meta.url).pathname;
const RUNC = "/usr/sbin/runc";
const BUSYBOX = "/bin/busybox";
const APPLETS = "nc sh cat id ls true false sleep stat env echo ps kill pwd tty test readlink trap touch stty".split(
  " ",
);
const LIMIT_MS = 60_000;

export interface Output {
  readonly status: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Why nothing can be run here, or undefined. */
export function whyNoRuntime(): string | undefined {
  if (process.getuid?.() !== 0) return "needs root";
  if (!existsSync(BUSYBOX)) return "needs a static /bin/busybox";
  return undefined;
}

export interface Runtime {
  readonly name: "berth-runc" | "runc";
  readonly title: string;
  readonly path: string;
  readonly env?: NodeJS.ProcessEnv;
  /** Of one command, ms. */
  readonly limitMs?: number;
}

/** berth-runc, once more without what it answers before Node is started, and runc where it is installed. */
export function runtimes(): Runtime[] {
  const own = { name: "berth-runc", title: "berth-runc", path: BERTH_RUNC } as const;
  const decided = { ...own, title: "berth-runc, all of it by Node", env: { BERTH_RUNC_ONLY_NODE: "1" } } as const;
  return [own, decided, ...(existsSync(RUNC) ? [{ name: "runc", title: "runc", path: RUNC } as const] : [])];
}

/** A place with a root file system, bundles and a state directory; gone with its containers at the end. */
export class Workshop implements Disposable {
  readonly directory = mkdtempSync(join(tmpdir(), "berth-runc-"));
  readonly root = join(this.directory, "state");
  readonly runtime: string;
  readonly #env: NodeJS.ProcessEnv | undefined;
  readonly #limitMs: number;
  readonly #prefix = `t${process.pid}-${Math.floor(Math.random() * 1e9).toString(36)}`;
  #next = 0;

  constructor({ path, env, limitMs = LIMIT_MS }: Pick<Runtime, "path" | "env" | "limitMs">) {
    this.runtime = path;
    this.#limitMs = limitMs;
    this.#env = env === undefined ? undefined : { ...process.env, ...env };
    const bin = join(this.directory, "rootfs", "bin");
    mkdirSync(bin, { recursive: true });
    cpSync(BUSYBOX, join(bin, "busybox"));
    for (const applet of APPLETS) symlinkSync("busybox", join(bin, applet));
  }

  /** A name that no other test uses. */
  id(): string {
    return `${this.#prefix}-${this.#next++}`;
  }

  /** A bundle whose process runs `script`. */
  bundle(script: string, change: (spec: oci.Spec) => oci.Spec = (spec) => spec): string {
    const directory = join(this.directory, `bundle${this.#next++}`);
    mkdirSync(directory);
    spawnSync(this.runtime, ["spec", "--bundle", directory]);
    const spec = JSON.parse(readFileSync(join(directory, "config.json"), "utf8")) as oci.Spec;
    const { process: own } = spec;
    if (own === undefined) throw new Error("the example configuration has no process");
    const { ambient: _ambient, ...capabilities } = own.capabilities ?? {};
    const plain: oci.Spec = {
      ...spec,
      root: { path: join(this.directory, "rootfs"), readonly: true },
      process: { ...own, terminal: false, args: ["sh", "-c", script], capabilities },
    };
    writeFileSync(join(directory, "config.json"), JSON.stringify(change(plain)));
    return directory;
  }

  /** One command line, behind `--root`. */
  run(...args: readonly string[]): Output {
    return this.runWith({}, ...args);
  }

  runWith(
    options: { readonly input?: string; readonly env?: NodeJS.ProcessEnv; readonly cwd?: string },
    ...args: readonly string[]
  ): Output {
    const { status, stdout, stderr, error } = spawnSync(this.runtime, ["--root", this.root, ...args], {
      encoding: "utf8",
      timeout: this.#limitMs,
      ...(options.input === undefined ? { stdio: ["ignore", "pipe", "pipe"] } : { input: options.input }),
      env: options.env ?? this.#env,
      ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
    });
    if (error !== undefined) throw error;
    return { status: status ?? -1, stdout, stderr };
  }

  /** As `run`, without pipes: what it leaves running holds nothing open. */
  quiet(...args: readonly string[]): number {
    const { status } = spawnSync(this.runtime, ["--root", this.root, ...args], {
      stdio: "ignore",
      timeout: this.#limitMs,
      env: this.#env,
    });
    return status ?? -1;
  }

  start(...args: readonly string[]): ReturnType<typeof spawn> {
    return spawn(this.runtime, ["--root", this.root, ...args], { stdio: ["pipe", "pipe", "pipe"], env: this.#env });
  }

  status(id: string): string {
    return (JSON.parse(this.run("state", id).stdout) as { status: string }).status;
  }

  [Symbol.dispose](): void {
    for (const id of this.run("list", "-q")
      .stdout.split("\n")
      .filter((line) => line !== ""))
      this.run("delete", "-f", id);
    rmSync(this.directory, { recursive: true, force: true });
  }
}
