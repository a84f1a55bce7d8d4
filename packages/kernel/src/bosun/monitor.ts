/** The client of one container's monitor. */
import type { Socket } from "node:net";
import { join } from "node:path";
import { encodePlan, type AnyMessage, type Message } from "../orders/encode.ts";
import { PHASE } from "../orders/messages.ts";
import type { Plan } from "../orders/plan.ts";
import { expect, reportError } from "./answers.ts";
import { Connection, connectTo } from "./client.ts";
import { MonitorLost } from "./errors.ts";
import type {
  CallOptions,
  ExecRequest,
  ExecResult,
  ExecSyncRequest,
  MonitorLink,
  MonitorState,
  SessionExit,
} from "./hand.ts";
import type { Reach } from "./reach.ts";

export { readRecord, type MonitorRecord } from "./record.ts";

const DEFAULT_EXEC_LIMIT = 16 << 20;
const DEFAULT_DRAIN_MS = 2_000;
const ESRCH = 3;
/** What lasts as long as a process does: no deadline. */
const FOREVER = 0;

/** Longer than a monitor takes to undo a creation; one that takes longer is not waited for. */
const END_TIMEOUT_MS = 15_000;

/**
 * Connects to the monitor whose directory this is. `plan`: the container's, where it is known: a start that fails then says
 * which order it was in words. `reach`: the way to a monitor in a virtual machine. Rejects with MonitorLost where none listens.
 */
export async function connectMonitor(directory: string, plan?: Plan, reach: Reach = connectTo): Promise<MonitorLink> {
  const path = join(directory, "monitor.sock");
  return new Link(path, await dial(path, reach), plan, reach);
}

/**
 * Resolves once no monitor works in the directory any more: at once, where none does. One whose creation was given up (serve
 * ended) ends what it has begun by itself, a moment later.
 */
export async function monitorEnded(directory: string): Promise<void> {
  const path = join(directory, "monitor.sock");
  let connection: Connection;
  try {
    connection = await Connection.open(path, (reason) => lost(path, reason));
  } catch (error) {
    if (GONE.has((error as NodeJS.ErrnoException).code ?? "")) return;
    throw error;
  }
  const late = setTimeout(() => connection.close(), END_TIMEOUT_MS);
  await connection.ended;
  clearTimeout(late);
}

/** Of connect(2): no directory or socket; a socket that its owner left behind. */
const GONE = new Set(["ENOENT", "ECONNREFUSED", "ECONNRESET"]);

function lost(path: string, reason: string): MonitorLost {
  return new MonitorLost(`monitor ${path}: ${reason}`);
}

async function dial(path: string, reach: Reach): Promise<Connection> {
  return await Connection.open(path, (reason) => lost(path, reason), reach).catch((error: NodeJS.ErrnoException) => {
    throw lost(path, error.code ?? error.message);
  });
}

class Link implements MonitorLink {
  readonly #path: string;
  readonly #connection: Connection;
  readonly #reach: Reach;
  /** Until the start: a plan is large, and nothing else asks for its words. */
  #plan: Plan | undefined;
  #closed = false;
  readonly exited: Promise<MonitorState>;

  constructor(path: string, connection: Connection, plan: Plan | undefined, reach: Reach) {
    this.#path = path;
    this.#reach = reach;
    this.#connection = connection;
    this.#plan = plan;
    this.exited = this.#watch();
    // Not everybody who connects waits for the exit: a lost monitor is then nobody's unhandled rejection.
    this.exited.catch(() => {});
  }

  async start(options?: CallOptions): Promise<MonitorState> {
    const plan = this.#plan;
    this.#plan = undefined;
    return stateOf(expect(await this.#connection.request("start", {}, options), "state", "start", plan));
  }

  async state(options?: CallOptions): Promise<MonitorState> {
    return stateOf(expect(await this.#connection.request("query", {}, options), "state", "query"));
  }

  async kill(session: number, signal: number, options?: CallOptions): Promise<boolean> {
    const answer = await this.#connection.request("kill", { session, signal }, options);
    if (answer.name === "report" && answer.fields.errno === ESRCH) return false;
    expect(answer, "report", `signal ${signal} to session ${session}`);
    return true;
  }

  async execSync(request: ExecSyncRequest, options: CallOptions = {}): Promise<ExecResult> {
    const { plan, terminal, limit = DEFAULT_EXEC_LIMIT, drainMs = DEFAULT_DRAIN_MS } = request;
    const fields = { sync: 1, ...terminalFields(terminal), streams: 0, limit, drainMs, plan: encodePlan(plan) };
    const answer = await this.#connection.request("exec", fields, { timeoutMs: FOREVER, ...options });
    const { code, signal, timedOut, truncated, stdout, stderr } = expect(answer, "execed", "exec", plan);
    return { code, signal, timedOut: timedOut !== 0, truncated: truncated !== 0, stdout, stderr };
  }

  async exec(
    request: ExecRequest & { readonly streams: number },
    options?: CallOptions,
  ): Promise<{ session: number; pid: number }> {
    const { plan, terminal, streams } = request;
    const fields = {
      sync: 0,
      ...terminalFields(terminal),
      streams,
      limit: 0,
      drainMs: DEFAULT_DRAIN_MS,
      plan: encodePlan(plan),
    };
    const { session, pid } = expect(await this.#connection.request("exec", fields, options), "session", "exec", plan);
    return { session, pid };
  }

  async wait(session: number, options: CallOptions = {}): Promise<SessionExit> {
    const answer = await this.#connection.request("wait", { session }, { timeoutMs: FOREVER, ...options });
    const { code, signal } = expect(answer, "execed", `wait for session ${session}`);
    return { code, signal };
  }

  async resize(session: number, rows: number, columns: number, options?: CallOptions): Promise<void> {
    expect(
      await this.#connection.request("resize", { session, rows, columns }, options),
      "report",
      `resize session ${session}`,
    );
  }

  async oomKilled(): Promise<boolean> {
    const answer = await this.#connection.request("oom", {}, { timeoutMs: FOREVER });
    if (answer.name === "report" && answer.fields.errno === ESRCH) return false;
    expect(answer, "report", "wait for a kill for memory");
    return true;
  }

  async reopenLog(options?: CallOptions): Promise<void> {
    expect(await this.#connection.request("reopen_log", {}, options), "report", "reopen the log");
  }

  async attach(session: number, stream: number, options?: CallOptions): Promise<Socket> {
    const connection = await dial(this.#path, this.#reach);
    return await connection.takeOver("attach", { session, stream }, `attach to session ${session}`, options);
  }

  close(): void {
    this.#closed = true;
    this.#connection.close();
  }

  async #watch(): Promise<MonitorState> {
    const { promise, resolve, reject: rejectNow } = Promise.withResolvers<MonitorState>();
    // What this side ends says nothing of the container.
    const reject = (error: unknown): void => {
      if (!this.#closed) rejectNow(error);
    };
    const look = (message: AnyMessage) => {
      if (message.name === "state" && message.fields.phase === PHASE.exited) resolve(stateOf(message.fields));
    };
    this.#connection.onEvent = look;
    void this.#connection.ended.then(() => reject(lost(this.#path, "the connection ended before the container did")));
    this.#connection.request("watch", {}, { timeoutMs: FOREVER }).then((answer) => {
      if (answer.name === "report" && answer.fields.errno !== 0) reject(reportError(answer.fields, "watch"));
      else look(answer);
    }, reject);
    return await promise;
  }
}

function terminalFields(terminal: ExecRequest["terminal"]): { terminal: number; rows: number; columns: number } {
  return { terminal: terminal === undefined ? 0 : 1, rows: terminal?.rows ?? 0, columns: terminal?.columns ?? 0 };
}

const PHASE_NAMES = ["creating", "created", "running", "exited"] as const;

function stateOf(fields: Message<"state">): MonitorState {
  const phase = PHASE_NAMES[fields.phase];
  if (phase === undefined) throw new Error(`bosun's monitor is in phase ${fields.phase}, which is unknown`);
  const { pid, pidStart, createdAt, startedAt, finishedAt, code, signal, oom, lost } = fields;
  return { phase, pid, pidStart, createdAt, startedAt, finishedAt, code, signal, oom: oom !== 0, lostLogBytes: lost };
}
