/** Drives `bosun run` with a plan, as serve's workers and the monitor's stages drive the orders. */
import assert from "node:assert/strict";
import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { constants as fsConstants, mkdtempSync, rmSync } from "node:fs";
import { constants, tmpdir } from "node:os";
import { dirname, join } from "node:path";
import type { TestContext } from "node:test";
import { fileURLToPath } from "node:url";
import { decodeOutputs, encodePlan, MESSAGES, type Order, type OrderArguments, type OrderName } from "@berth/kernel";

const native = dirname(dirname(fileURLToPath(import.meta.url)));
export const build = join(native, "build");
export const built = join(native, "../../.build/native");

function findBosun(): string {
  const given = process.env["BERTH_BOSUN"];
  if (given !== undefined) return given;
  execFileSync(build);
  return join(built, "bosun");
}
/** The binary under test: BERTH_BOSUN, or the one that `build` makes. */
export const bosun = findBosun();

export const NO_SLOT = 0xffffffff;
export const NEW = {
  mnt: 0x20000n,
  cgroup: 0x2000000n,
  uts: 0x4000000n,
  ipc: 0x8000000n,
  user: 0x10000000n,
  pid: 0x20000000n,
  net: 0x40000000n,
};
export const MS = {
  RDONLY: 1n,
  NOSUID: 2n,
  REMOUNT: 32n,
  BIND: 4096n,
  REC: 16384n,
  PRIVATE: 1n << 18n,
  SLAVE: 1n << 19n,
};
export const O = { RDONLY: 0n, WRONLY: 1n, DIRECTORY: BigInt(fsConstants.O_DIRECTORY), PATH: 0x200000n };
export const ATTR = { RDONLY: 1n, NOSUID: 2n, NODEV: 4n, NOEXEC: 8n, NOATIME: 0x10n, ATIME: 0x70n };
export const S = { IFCHR: 0o20000, IFBLK: 0o60000, IFIFO: 0o10000 };

export function order<N extends OrderName>(name: N, args: OrderArguments<N>): Order {
  return { order: name, args } as Order;
}

/** A mount namespace of one's own from here on, so that nothing a test mounts is seen by anybody else. */
export const privateMounts: readonly Order[] = [
  order("unshare", { flags: NEW.mnt }),
  order("mount", { source: "", target: "/", fstype: "", flags: MS.REC | MS.PRIVATE, data: "" }),
];

/** Ends a plan in a shell of the host's; what it prints is the outcome's `said`. */
export function shell(script: string, env: readonly string[] = ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"]): Order {
  return order("exec", { argv: ["/bin/sh", "-c", script], env, keep: 0 });
}

export interface Outcome {
  /** "" or the name of the errno. */
  readonly code: string;
  readonly order: number | undefined;
  readonly stage: number;
  readonly detail: string;
  readonly outputs: ReadonlyMap<number, Uint8Array | undefined>;
  /** Of bosun itself: the process's that the plan ended in, else 0 or 1. */
  readonly status: number;
  /** All that went to stderr: the process's output. */
  readonly said: string;
}

const ERRNO = new Map(Object.entries(constants.errno).map(([name, number]) => [number, name]));

const HEADER_SIZE = 16;

/** The one frame that `bosun run` writes, by hand: its tests are not to hang on the decoder that they are compared with. */
function decode(stdout: Buffer, status: number, said: string): Outcome {
  assert.ok(stdout.length > HEADER_SIZE, `bosun wrote no report (status ${status}): ${said}`);
  assert.equal(stdout.readUInt32LE(0), stdout.length - HEADER_SIZE);
  assert.equal(stdout.readUInt16LE(8), MESSAGES.report.type);
  const body = stdout.subarray(HEADER_SIZE);
  const [errno, index, stage, size] = [0, 4, 8, 12].map((at) => body.readUInt32LE(at)) as [
    number,
    number,
    number,
    number,
  ];
  const outputs = body.subarray(16 + size + 1);
  assert.equal(outputs.readUInt32LE(0), outputs.length - 5);
  return {
    code: errno === 0 ? "" : (ERRNO.get(errno) ?? String(errno)),
    order: index === NO_SLOT ? undefined : index,
    stage,
    detail: body.subarray(16, 16 + size).toString(),
    outputs: decodeOutputs(outputs.subarray(4, -1)),
    status,
    said,
  };
}

const LIMIT_MS = 60_000;

export interface Running {
  readonly process: ChildProcess;
  readonly outcome: Promise<Outcome>;
}

export function startEncoded(plan: Uint8Array, options: { cwd?: string; wrapper?: readonly string[] } = {}): Running {
  const [command, ...rest] = [...(options.wrapper ?? []), bosun, "run"];
  const child = spawn(command, rest, { stdio: ["pipe", "pipe", "pipe"], cwd: options.cwd ?? "/" });
  const out: Buffer[] = [];
  const err: Buffer[] = [];
  child.stdout.on("data", (chunk: Buffer) => out.push(chunk));
  child.stderr.on("data", (chunk: Buffer) => err.push(chunk));
  // A plan that hangs fails its test instead of the whole run.
  const limit = setTimeout(() => child.kill("SIGTERM"), LIMIT_MS);
  const outcome = new Promise<Outcome>((resolve, reject) => {
    child.on("error", reject);
    child.on("close", (status, signal) => {
      clearTimeout(limit);
      const said = Buffer.concat(err).toString();
      try {
        assert.equal(signal, null, `bosun died of ${String(signal)}: ${said}`);
        resolve(decode(Buffer.concat(out), status ?? -1, said));
      } catch (error) {
        reject(error);
      }
    });
  });
  child.stdin.on("error", () => {}); // it may end without having read all of a malformed plan
  child.stdin.end(plan);
  return { process: child, outcome };
}

export function start(orders: readonly Order[], options: { cwd?: string; wrapper?: readonly string[] } = {}): Running {
  return startEncoded(encodePlan({ orders }), options);
}

export function carryOut(
  orders: readonly Order[],
  options: { cwd?: string; wrapper?: readonly string[] } = {},
): Promise<Outcome> {
  return start(orders, options).outcome;
}

/** Carries the plan out and expects it to succeed. */
export async function succeed(orders: readonly Order[]): Promise<Outcome> {
  const outcome = await carryOut(orders);
  assert.equal(outcome.code, "", `order ${String(outcome.order)}: ${outcome.code} ${outcome.detail} ${outcome.said}`);
  return outcome;
}

/** Carries the plan out and expects its last order (or `index`) to fail so. */
export async function refuse(
  orders: readonly Order[],
  code: string,
  detail: RegExp,
  index = orders.length - 1,
): Promise<Outcome> {
  const outcome = await carryOut(orders);
  assert.equal(outcome.code, code, `${outcome.detail} ${outcome.said}`);
  assert.equal(outcome.order, index);
  assert.match(outcome.detail, detail);
  assert.equal(outcome.status, 1);
  return outcome;
}

/** A directory of the test's own, removed after it. */
export function scratch(t: TestContext): string {
  const path = mkdtempSync(join(tmpdir(), "bosun-test-"));
  t.after(() => rmSync(path, { recursive: true, force: true }));
  return path;
}

/** Opens `path` as the root slot for the orders that resolve in a rootfs. */
export function root(slot: number, path: string): Order {
  return order("open", { slot, path, flags: O.PATH | O.DIRECTORY });
}

export function text(outcome: Outcome, index: number): string | undefined {
  const bytes = outcome.outputs.get(index);
  return bytes === undefined ? undefined : Buffer.from(bytes).toString();
}
