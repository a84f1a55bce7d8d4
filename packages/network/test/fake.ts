/** A hand that spawns with node:child_process, and CNI plugins that are shell scripts told by files what to do. */
import { spawn } from "node:child_process";
import { chmod, mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { CallOptions, Command, CommandResult, Hand } from "@berth/kernel";

const unused = (): never => {
  throw new Error("not used by cni");
};

export function spawningHand(): Hand {
  return { spawn: spawnCommand, run: unused, monitor: unused, tree: unused, dial: unused, close: async () => {} };
}

function spawnCommand(command: Command, options: CallOptions = {}): Promise<CommandResult> {
  return new Promise((resolve, reject) => {
    const [file = "", ...args] = command.argv;
    const child = spawn(file, args, { env: command.env, detached: true, stdio: "pipe" });
    const onAbort = () => {
      if (child.pid !== undefined) process.kill(-child.pid, "SIGKILL");
      reject(options.signal?.reason as Error);
    };
    options.signal?.addEventListener("abort", onAbort, { once: true });
    child.on("exit", () => options.signal?.removeEventListener("abort", onAbort));
    const stdout: Buffer[] = [];
    const stderr: Buffer[] = [];
    child.stdout.on("data", (chunk: Buffer) => stdout.push(chunk));
    child.stderr.on("data", (chunk: Buffer) => stderr.push(chunk));
    child.stdin.on("error", () => {});
    child.stdin.end(command.stdin);
    child.on("error", reject);
    child.on("close", (code, signal) =>
      resolve({
        status: code ?? 137,
        signal: signal ? 9 : 0,
        stdout: Buffer.concat(stdout),
        stderr: Buffer.concat(stderr),
        truncated: false,
      }),
    );
  });
}

export interface Call {
  readonly command: string;
  readonly plugin: string;
  readonly env: Readonly<Record<string, string>>;
  readonly conf: Readonly<Record<string, unknown>>;
}

const SCRIPT = `#!/bin/sh
me=$(basename "$0"); here=$(dirname "$0")
{ printf '%s %s ' "$CNI_COMMAND" "$me"; env | grep '^CNI_' | tr '\\n' '\\t'; printf '\\036'; cat; printf '\\035'; } >> "$here/calls"
answer="$here/$me.$CNI_COMMAND"
[ -e "$answer.wait" ] && { echo started > "$answer.started"; read -r _ < "$answer.wait"; }
[ -e "$answer.stderr" ] && cat "$answer.stderr" >&2
[ -e "$answer.stdout" ] && cat "$answer.stdout"
exit "$(cat "$answer.status" 2>/dev/null || echo 0)"
`;

/** Directories of one test, gone at its end. */
export class Bench {
  readonly root: string;
  readonly confDir: string;
  readonly binDir: string;
  readonly cacheDir: string;

  private constructor(root: string) {
    this.root = root;
    this.confDir = join(root, "net.d");
    this.binDir = join(root, "bin");
    this.cacheDir = join(root, "cache");
  }

  static async make(): Promise<Bench> {
    const bench = new Bench(await mkdtemp(join(tmpdir(), "berth-cni-")));
    await Promise.all([mkdir(bench.confDir), mkdir(bench.binDir)]);
    return bench;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await rm(this.root, { recursive: true, force: true });
  }

  async conf(file: string, conf: object | string): Promise<void> {
    await writeFile(join(this.confDir, file), typeof conf === "string" ? conf : JSON.stringify(conf));
  }

  async plugin(name: string): Promise<void> {
    const path = join(this.binDir, name);
    await writeFile(path, SCRIPT);
    await chmod(path, 0o755);
  }

  async answers(
    plugin: string,
    command: string,
    answer: { stdout?: string | object; stderr?: string; status?: number },
  ): Promise<void> {
    const base = join(this.binDir, `${plugin}.${command}`);
    for (const [what, value] of Object.entries(answer))
      await writeFile(`${base}.${what}`, typeof value === "object" ? JSON.stringify(value) : String(value));
  }

  async calls(): Promise<Call[]> {
    const text = await readFile(join(this.binDir, "calls"), "utf8").catch(() => "");
    return text
      .split("\x1d")
      .filter((record) => record !== "")
      .map((record) => {
        const [head = "", conf = ""] = record.split("\x1e");
        const [command = "", plugin = "", ...env] = head.split(/[ \t](?=CNI_)| /);
        return {
          command,
          plugin,
          env: Object.fromEntries(
            env
              .map((pair) => pair.trim())
              .filter((pair) => pair !== "")
              .map((pair) => [pair.slice(0, pair.indexOf("=")), pair.slice(pair.indexOf("=") + 1)]),
          ) as Record<string, string>,
          conf: JSON.parse(conf) as Record<string, unknown>,
        };
      });
  }

  async sequence(): Promise<string[]> {
    return (await this.calls()).map((call) => `${call.command} ${call.plugin}`);
  }
}

export const RESULT = {
  cniVersion: "1.0.0",
  interfaces: [
    { name: "br0", mac: "aa:bb:cc:00:00:01" },
    { name: "eth0", mac: "aa:bb:cc:00:00:02", sandbox: "/run/netns/pod" },
  ],
  ips: [
    { address: "10.1.2.3/24", gateway: "10.1.2.1", interface: 1 },
    { address: "fd00::3/64", interface: 1 },
  ],
  routes: [{ dst: "0.0.0.0/0" }],
  dns: { nameservers: ["10.1.2.1"] },
};
