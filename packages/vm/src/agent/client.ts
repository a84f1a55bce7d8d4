/** Calls to Kata's agent, over one connection that is made anew when it has gone. */
import type { DescMessage, DescMethodUnary, MessageInitShape, MessageShape } from "@bufbuild/protobuf";
import { health } from "@berth/spec/kata";
import { CODE, TtrpcClient, TtrpcClosed, TtrpcError } from "@berth/ttrpc";
import { VmError } from "../errors.ts";
import { wordsOf } from "./words.ts";
import { type AgentAddress, dialAgent, type DialOptions, nameOf } from "./connect.ts";

/** Kata's defaultRequestTimeout and checkRequestTimeout. */
const REQUEST_MS = 30_000;
const CHECK_MS = 30_000;
/** For a connection that has to be made anew: the guest has booted long ago. */
const REDIAL_MS = 10_000;
/** These are answered when something happens. */
const UNLIMITED: ReadonlySet<string> = new Set([
  "WaitProcess",
  "ReadStdout",
  "ReadStderr",
  "WriteStdin",
  "GetOOMEvent",
]);

/** A request that the agent refused, or did not answer. */
export class AgentError extends VmError {
  /** One of ttRPC's CODE. */
  readonly status: number;

  constructor(request: string, { code, message }: TtrpcError, options: ErrorOptions) {
    super(
      code === CODE.unimplemented ? "Unsupported" : "Guest",
      `the guest's agent: ${request}: ${wordsOf(message)}`,
      options,
    );
    this.status = code;
  }
}

export interface AgentCallOptions {
  /** Milliseconds; by default what Kata gives the request. */
  readonly timeoutMs?: number | undefined;
  readonly signal?: AbortSignal | undefined;
}

export class AgentClient {
  readonly address: AgentAddress;
  #connection: Promise<TtrpcClient> | undefined;
  #closed = false;

  private constructor(address: AgentAddress, first: TtrpcClient) {
    this.address = address;
    void this.#keep(Promise.resolve(first));
  }

  /** Waits until the agent is there and well. Rejects with VmError Guest, or the signal's reason. */
  static async connect(address: AgentAddress, options: DialOptions): Promise<AgentClient> {
    const socket = await dialAgent(address, options);
    const client = new AgentClient(address, new TtrpcClient(socket, nameOf(address)));
    try {
      await client.check({ signal: options.signal });
      return client;
    } catch (error) {
      client.close();
      throw error;
    }
  }

  /** Rejects with AgentError, or the signal's reason. */
  async call<I extends DescMessage, O extends DescMessage>(
    method: DescMethodUnary<I, O>,
    request: MessageInitShape<I>,
    { timeoutMs = UNLIMITED.has(method.name) ? undefined : REQUEST_MS, signal }: AgentCallOptions = {},
  ): Promise<MessageShape<O>> {
    const connection = await this.#connected(signal);
    try {
      return await connection.call(method, request, { timeoutMs, signal });
    } catch (error) {
      if (!(error instanceof TtrpcError)) throw error;
      throw new AgentError(method.name, error, { cause: error });
    }
  }

  /** Rejects where the agent is not well. */
  async check(options: AgentCallOptions = {}): Promise<void> {
    const { status } = await this.call(health.Health.method.check, {}, { timeoutMs: CHECK_MS, ...options });
    if (status !== health.HealthCheckResponse_ServingStatus.SERVING)
      throw new VmError("Guest", `the guest's agent says that it does not serve (status ${status})`);
  }

  /** The agent goes on. */
  close(): void {
    this.#closed = true;
    void this.#connection?.then(
      (connection) => connection.close(),
      () => undefined,
    );
  }

  async #connected(signal: AbortSignal | undefined): Promise<TtrpcClient> {
    if (this.#closed)
      throw new AgentError("connect", new TtrpcClosed(`${nameOf(this.address)}: the connection was closed`), {});
    return await (this.#connection ?? this.#keep(this.#dial(signal)));
  }

  async #dial(signal: AbortSignal | undefined): Promise<TtrpcClient> {
    return new TtrpcClient(await dialAgent(this.address, { timeoutMs: REDIAL_MS, signal }), nameOf(this.address));
  }

  /** Until it ends. */
  #keep(connection: Promise<TtrpcClient>): Promise<TtrpcClient> {
    const forget = (): void => {
      if (this.#connection === connection) this.#connection = undefined;
    };
    this.#connection = connection;
    connection.then(({ closed }) => void closed.then(forget), forget);
    return connection;
  }
}
