/** What a Hand is asked, as requests on a connection to some `bosun serve`. Who keeps that connection up is the subclass's matter. */
import type { Socket } from "node:net";
import { decodeOutputs, encodePlan, type AnyMessage, type MessageFields } from "../orders/encode.ts";
import type { MessageName } from "../orders/messages.ts";
import type { Plan } from "../orders/plan.ts";
import { expect } from "./answers.ts";
import { connectTo, type Connection } from "./client.ts";
import { dial, greet, openTree } from "./connections.ts";
import { HandLost } from "./errors.ts";
import type {
  CallOptions,
  Command,
  CommandResult,
  Created,
  Hand,
  MonitorRequest,
  Outputs,
  TreeWriter,
} from "./hand.ts";
import type { Reach } from "./reach.ts";

const DEFAULT_OUTPUT_LIMIT = 1 << 20;
const DEFAULT_MAX_LINE = 16_384;

export abstract class AskingHand implements Hand {
  protected readonly socket: string;
  protected readonly reach: Reach;

  constructor(socket: string, reach: Reach = connectTo) {
    this.socket = socket;
    this.reach = reach;
  }

  /** A connection that has said hello. Rejects with HandLost. */
  protected abstract connected(): Promise<Connection>;
  abstract close(): Promise<void>;

  async run(plan: Plan, options?: CallOptions): Promise<Outputs> {
    const answer = await this.#request("run", { plan: encodePlan(plan) }, options);
    return decodeOutputs(expect(answer, "report", "plan", plan).outputs);
  }

  async spawn(command: Command, options?: CallOptions): Promise<CommandResult> {
    const { argv, env, cwd = "/", stdin = new Uint8Array(), limit = DEFAULT_OUTPUT_LIMIT } = command;
    const fields = { argv, env: Object.entries(env).map(([name, value]) => `${name}=${value}`), cwd, stdin, limit };
    const answer = expect(await this.#request("spawn", fields, options), "spawned", `run ${argv[0] ?? ""}`);
    const { status, signal, stdout, stderr, truncated } = answer;
    return { status, signal, stdout, stderr, truncated: truncated !== 0 };
  }

  async monitor(request: MonitorRequest, options?: CallOptions): Promise<Created> {
    const { plan } = request;
    const created = expect(await this.#request("monitor", monitorFields(request), options), "created", "monitor", plan);
    const { monitorPid, pid, pidStart, createdAt, outputs } = created;
    return { monitorPid, pid, pidStart, createdAt, outputs: decodeOutputs(outputs) };
  }

  async tree(path: string, options?: CallOptions): Promise<TreeWriter> {
    await this.connected();
    return await openTree(this.socket, path, options, this.reach);
  }

  async dial(netns: string, port: number, options?: CallOptions): Promise<Socket> {
    await this.connected();
    return await dial(this.socket, netns, port, options, this.reach);
  }

  async #request<N extends MessageName>(name: N, fields: MessageFields<N>, options?: CallOptions): Promise<AnyMessage> {
    options?.signal?.throwIfAborted();
    return await (await this.connected()).request(name, fields, options);
  }
}

function monitorFields(request: MonitorRequest): MessageFields<"monitor"> {
  const {
    dir,
    plan,
    logPath = "",
    maxLine = DEFAULT_MAX_LINE,
    terminal,
    stdin = false,
    stdinOnce = false,
    oom,
    subreaper = false,
  } = request;
  return {
    dir,
    logPath,
    maxLine,
    terminal: terminal === undefined ? 0 : 1,
    rows: terminal?.rows ?? 0,
    columns: terminal?.columns ?? 0,
    stdin: stdin ? 1 : 0,
    stdinOnce: stdinOnce ? 1 : 0,
    oomFile: oom?.file ?? "",
    oomKey: oom?.key ?? "",
    subreaper: subreaper ? 1 : 0,
    plan: encodePlan(plan),
  };
}

/**
 * A Hand by the `bosun serve` that listens at `socket` and that others keep running: the one in a virtual machine, by `reach`. A lost
 * connection is made anew for the next call; `close` leaves serve alone.
 */
export async function connectHand(socket: string, reach?: Reach): Promise<Hand> {
  const hand = new RemoteHand(socket, reach);
  await hand.connected();
  return hand;
}

class RemoteHand extends AskingHand {
  #connection: Promise<Connection> | undefined;
  #closed = false;

  /** Concurrent callers share one connection. */
  override async connected(): Promise<Connection> {
    if (this.#closed) throw new HandLost(`bosun serve at ${this.socket}: the hand was closed`);
    const connecting = (this.#connection ??= greet(this.socket, this.reach));
    try {
      const connection = await connecting;
      if (connection.isOpen) return connection;
    } catch (error) {
      if (this.#connection === connecting) this.#connection = undefined;
      throw error instanceof HandLost
        ? error
        : new HandLost(`bosun serve at ${this.socket}: ${String(error)}`, { cause: error });
    }
    if (this.#connection === connecting) this.#connection = undefined;
    return await this.connected();
  }

  override async close(): Promise<void> {
    this.#closed = true;
    const connection = await this.#connection?.catch(() => undefined);
    connection?.close();
  }
}
