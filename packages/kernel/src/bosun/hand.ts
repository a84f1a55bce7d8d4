/**
 * The seam between what berth decides and what bosun does. Everything that needs mount(2), setns(2), fork or SCM_RIGHTS goes
 * through a `Hand`; the real one talks to `bosun serve`, the recording one (recording.ts) is what tests of policy use.
 */
import type { Plan } from "../orders/plan.ts";

export interface CallOptions {
  /** Ends the work in bosun (killed, answered by ECANCELED) and rejects with the signal's reason. */
  readonly signal?: AbortSignal;
  /** Milliseconds; bosun kills the work and the call rejects with code ETIMEDOUT. Default 120,000. */
  readonly timeoutMs?: number;
}

/** What a plan's orders answered: by the index of the order. Absent file: `undefined` (read_in). */
export type Outputs = ReadonlyMap<number, Uint8Array | undefined>;

export interface Command {
  readonly argv: readonly string[];
  readonly env: Readonly<Record<string, string>>;
  readonly cwd?: string;
  readonly stdin?: Uint8Array;
  /** Bytes kept of each output; default 1 MiB. */
  readonly limit?: number;
}

export interface CommandResult {
  /** Exit status, or 128 + signal. */
  readonly status: number;
  readonly signal: number;
  readonly stdout: Uint8Array;
  readonly stderr: Uint8Array;
  readonly truncated: boolean;
}

export interface MonitorRequest {
  /** An existing directory: the monitor makes `monitor.sock` and `record` in it. */
  readonly dir: string;
  readonly plan: Plan;
  /** CRI log file, written by the monitor; absent: no log. */
  readonly logPath?: string;
  /** Content bytes of one CRI log line before it is split (tag P). Default 16,384. */
  readonly maxLine?: number;
  readonly terminal?: { readonly rows: number; readonly columns: number } | undefined;
  readonly stdin?: boolean;
  readonly stdinOnce?: boolean;
  /** Counter whose growth marks the exit as an OOM kill: v1 memory.oom_control, v2 memory.events; key "oom_kill". */
  readonly oom?: { readonly file: string; readonly key: string } | undefined;
  /** For plans with the order `runtime`: what its programs leave behind becomes the monitor's child. */
  readonly subreaper?: boolean;
}

export interface Created {
  readonly monitorPid: number;
  /** Of the parked process, in the host's PID namespace. */
  readonly pid: number;
  /** Field 22 of /proc/PID/stat: with `pid`, an identity that is never reused. */
  readonly pidStart: bigint;
  readonly createdAt: bigint;
  readonly outputs: Outputs;
}

export interface Hand {
  /** Carries out a plan without `clone` in a forked worker in the host's namespaces. Rejects with OrderError. */
  run(plan: Plan, options?: CallOptions): Promise<Outputs>;
  /** Runs an external program to its end. A non-zero status is not an error here. */
  spawn(command: Command, options?: CallOptions): Promise<CommandResult>;
  /** Makes a monitor and, by the plan, its process up to `park`. On failure nothing is left but what the plan's own orders made on the host. */
  monitor(request: MonitorRequest, options?: CallOptions): Promise<Created>;
  /** Opens a stream that fills the existing directory `path` (an unpacked layer). */
  tree(path: string, options?: CallOptions): Promise<TreeWriter>;
  /** A connection to TCP port `port` of the loopback of the network namespace pinned at `netns`: half-open allowed. Rejects with OrderError (ECONNREFUSED …). */
  dial(netns: string, port: number, options?: CallOptions): Promise<import("node:net").Socket>;
  close(): Promise<void>;
}

export interface TreeMeta {
  readonly uid: number;
  readonly gid: number;
  /** Nanoseconds since the epoch. */
  readonly mtime: bigint;
  readonly xattrs?: ReadonlyMap<string, Uint8Array>;
}

/** Paths are raw bytes (tar names need not be UTF-8), relative, resolved inside the tree. Calls apply back-pressure by the promise they return. */
export interface TreeWriter {
  directory(path: Uint8Array, mode: number, meta: TreeMeta): Promise<void>;
  /** Announces a regular file; `data` and `hole` must then add up to `size`. */
  file(path: Uint8Array, mode: number, size: bigint, meta: TreeMeta): Promise<void>;
  data(bytes: Uint8Array): Promise<void>;
  hole(length: bigint): Promise<void>;
  symlink(path: Uint8Array, target: Uint8Array, meta: TreeMeta): Promise<void>;
  hardlink(path: Uint8Array, target: Uint8Array): Promise<void>;
  /** `mode` includes S_IFCHR, S_IFBLK or S_IFIFO. */
  node(path: Uint8Array, mode: number, major: number, minor: number, meta: TreeMeta): Promise<void>;
  /** Ends the stream; resolves when all is written (and, with `sync`, synced). */
  end(sync: boolean): Promise<void>;
  /** Ends the writer without finishing; what it wrote stays for the caller to remove. */
  abort(): Promise<void>;
}

export interface MonitorState {
  readonly phase: "creating" | "created" | "running" | "exited";
  readonly pid: number;
  readonly pidStart: bigint;
  /** Nanoseconds since the epoch; 0 = not yet. */
  readonly createdAt: bigint;
  readonly startedAt: bigint;
  readonly finishedAt: bigint;
  /** Exit status, or 128 + signal. */
  readonly code: number;
  readonly signal: number;
  readonly oom: boolean;
  readonly lostLogBytes: bigint;
}

export interface ExecRequest {
  readonly plan: Plan;
  readonly terminal?: { readonly rows: number; readonly columns: number } | undefined;
}
export interface ExecSyncRequest extends ExecRequest {
  /** Bytes kept of each output; default 16 MiB (the CRI's limit). */
  readonly limit?: number;
  /** How long after the exit output is awaited that a grandchild may still hold open. */
  readonly drainMs?: number;
}
export interface ExecResult {
  readonly code: number;
  readonly signal: number;
  readonly timedOut: boolean;
  readonly truncated: boolean;
  readonly stdout: Uint8Array;
  readonly stderr: Uint8Array;
}
export interface SessionExit {
  readonly code: number;
  readonly signal: number;
}

/** A connection to one container's monitor. It survives nothing: after a restart of berthd a new one is made from `dir`. */
export interface MonitorLink {
  start(options?: CallOptions): Promise<MonitorState>;
  state(options?: CallOptions): Promise<MonitorState>;
  /**
   * Resolves when the container's process has exited and its log is complete; rejects with MonitorLost if the monitor goes first.
   * After `close` it does neither: the container runs on.
   */
  readonly exited: Promise<MonitorState>;
  /** `session` 0 is the container's process. Resolves false if it had exited. */
  kill(session: number, signal: number, options?: CallOptions): Promise<boolean>;
  execSync(request: ExecSyncRequest, options?: CallOptions): Promise<ExecResult>;
  /** `streams`: which of STREAM will be attached; their output waits for that. */
  exec(
    request: ExecRequest & { readonly streams: number },
    options?: CallOptions,
  ): Promise<{ session: number; pid: number }>;
  wait(session: number, options?: CallOptions): Promise<SessionExit>;
  resize(session: number, rows: number, columns: number, options?: CallOptions): Promise<void>;
  /**
   * Resolves true as soon as the kernel kills something of the container for memory; false: it ended, and nothing was. Rejects with
   * MonitorLost. Ask once.
   */
  oomKilled(): Promise<boolean>;
  reopenLog(options?: CallOptions): Promise<void>;
  /** A raw byte stream of the session: node:net Socket, half-open allowed. `stream` is one of STREAM. */
  attach(session: number, stream: number, options?: CallOptions): Promise<import("node:net").Socket>;
  close(): void;
}
