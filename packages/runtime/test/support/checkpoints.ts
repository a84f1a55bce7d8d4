/** What tests of checkpoints have in common: a workshop that is looked through for leftovers, programs that are talked to. */
import assert from "node:assert/strict";
import { spawn, spawnSync, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { createServer, type AddressInfo } from "node:net";
import { join } from "node:path";
import type { oci } from "@berth/spec";
import { BERTH_RUNC, Workshop, type Output } from "./runtimes.ts";

/** A guest that shares its processors with others takes its time. */
const LIMIT_MS = 180_000;

/** Why CRIU cannot work on this machine, or undefined. */
export function criuProblem(): string | undefined {
  const { error, status, stdout, stderr } = spawnSync("criu", ["check"], { encoding: "utf8" });
  if (error !== undefined) return "criu is not installed";
  return status === 0 ? undefined : `criu cannot work here: ${`${stdout}${stderr}`.trim()}`;
}

/** What a container counts in `/count`. */
export const COUNTER = "i=0; while :; do i=$((i+1)); echo $i >/count; sleep 0.2; done";

export const writable = (spec: oci.Spec): oci.Spec => ({
  ...spec,
  root: { ...spec.root, path: spec.root?.path ?? "", readonly: false },
});

export class CheckpointShop extends Workshop {
  readonly #mounts = readFileSync("/proc/self/mountinfo", "utf8");

  constructor() {
    super({ path: BERTH_RUNC, limitMs: LIMIT_MS });
  }

  /** What COUNTER has come to; 0 before its first. */
  count(): number {
    const file = join(this.directory, "rootfs", "count");
    return existsSync(file) ? Number(readFileSync(file, "utf8")) : 0;
  }

  /** A command line that must succeed. */
  must(...args: readonly string[]): Output {
    const output = this.run(...args);
    assert.equal(output.status, 0, `${args.join(" ")}: ${output.stderr}`);
    return output;
  }

  /** One that leaves a container behind, whose descriptors are the null device. */
  detached(...args: readonly string[]): void {
    const log = join(this.directory, "log");
    writeFileSync(log, "");
    assert.equal(this.quiet("--log", log, ...args), 0, `${args.join(" ")}: ${readFileSync(log, "utf8")}`);
  }

  /** One that must fail, and say why. */
  refused(reason: RegExp, ...args: readonly string[]): void {
    const { status, stderr } = this.run(...args);
    assert.equal(status, 1, `${args.join(" ")}: ${stderr}`);
    assert.match(stderr, reason);
  }

  /** Asserts that there is neither state nor cgroup nor mount nor process of CRIU's. */
  nothingLeft(id: string): void {
    assert.equal(existsSync(join(this.root, id)), false);
    assert.equal(spawnSync("find", ["/sys/fs/cgroup", "-name", id], { encoding: "utf8" }).stdout.trim(), "");
    assert.equal(readFileSync("/proc/self/mountinfo", "utf8"), this.#mounts);
    const running = readdirSync("/proc").filter((pid) => /^\d+$/.test(pid) && commandOf(pid) === "criu");
    assert.deepEqual(running, []);
  }
}

export function commandOf(pid: number | string): string {
  try {
    return readFileSync(`/proc/${pid}/comm`, "utf8").trim();
  } catch {
    return ""; // it has ended meanwhile
  }
}

export interface Attended {
  readonly child: ChildProcess;
  /** Its exit status. */
  readonly ended: Promise<number | null>;
  /** Writes, and waits for a text in the output. */
  readonly answer: (input: string, expected: string) => Promise<void>;
}

/** A program with pipes, or behind a terminal of script(1). */
export function attended(terminal: boolean, [program = "", ...args]: readonly string[]): Attended {
  const child = terminal
    ? spawn("script", ["-qec", [program, ...args].join(" "), "/dev/null"], { stdio: ["pipe", "pipe", "pipe"] })
    : spawn(program, args, { stdio: ["pipe", "pipe", "pipe"] });
  let output = "";
  const { promise, resolve } = Promise.withResolvers<number | null>();
  child.once("exit", (code) => resolve(code));
  for (const stream of [child.stdout, child.stderr])
    stream?.on("data", (chunk: Buffer) => (output += chunk.toString()));
  const answer = async (input: string, expected: string): Promise<void> => {
    const from = output.length;
    child.stdin?.write(input);
    await until(
      () => output.slice(from).includes(expected),
      () => `no ${JSON.stringify(expected)} in ${JSON.stringify(output)}`,
    );
  };
  return { child, ended: promise, answer };
}

/** Asks every 50 ms: for what nobody announces. */
export async function until(condition: () => boolean, problem = () => "the condition never came true"): Promise<void> {
  for (const deadline = Date.now() + LIMIT_MS; !condition();) {
    assert.ok(Date.now() < deadline, problem());
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

/** In the host's network namespace: in one that stays, CRIU 3.17 does not find back what it locked (docs/compatibility.md). */
export function withHostNetwork(spec: oci.Spec): oci.Spec {
  const namespaces = (spec.linux?.namespaces ?? []).filter(({ type }) => type !== "network");
  return { ...spec, linux: { ...spec.linux, namespaces } };
}

const TCP_STATES = { ESTABLISHED: "01", LISTEN: "0A" } as const;

/** How many sockets of this local port are in a state (proc_net_tcp(5)). */
export function sockets(port: number, state: keyof typeof TCP_STATES): number {
  const local = port.toString(16).toUpperCase().padStart(4, "0");
  const line = new RegExp(`^ *\\d+: [0-9A-F]+:${local} \\S+ ${TCP_STATES[state]} `, "gm");
  const count = (path: string): number => readFileSync(path, "utf8").match(line)?.length ?? 0;
  return count("/proc/net/tcp") + count("/proc/net/tcp6");
}

export async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, "close");
  return port;
}
