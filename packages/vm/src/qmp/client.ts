/**
 * QEMU's machine protocol (docs/interop/qmp-spec.rst): JSON objects, one a line. Greeting, capabilities, then commands that are
 * answered by their id, and events in between.
 */
import { connect, type Socket } from "node:net";
import { VmError } from "../errors.ts";

/** Longer than a hypervisor takes to answer under load; what a guest must do first is told by an event. */
const ANSWER_MS = 30_000;
/** A line that is longer is no answer of QEMU's. */
const LONGEST_LINE = 16 << 20;

export interface QmpEvent {
  readonly event: string;
  readonly data: Readonly<Record<string, unknown>>;
}

interface Pending {
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: Error) => void;
  readonly command: string;
}

/** A command that QEMU refused, with its class (GenericError, CommandNotFound, DeviceNotFound …). */
export class QmpError extends VmError {
  readonly class: string;
  constructor(command: string, errorClass: string, description: string) {
    super("Hypervisor", `${command}: ${description}`);
    this.class = errorClass;
  }
}

export class Qmp {
  readonly #socket: Socket;
  readonly #path: string;
  readonly #pending = new Map<number, Pending>();
  readonly #listeners = new Set<(event: QmpEvent) => void>();
  readonly #greeted = Promise.withResolvers<void>();
  readonly #ended = Promise.withResolvers<string>();
  #buffered = "";
  #nextId = 1;
  #isOpen = true;
  /** As the greeting says: "7.2.22"; StratoVirt's own, which names QEMU's beside it. */
  version = "";

  private constructor(path: string, socket: Socket) {
    this.#path = path;
    this.#socket = socket;
    socket.setEncoding("utf8");
    socket.on("data", (text: string) => this.#take(text));
    socket.on("error", (error) => this.#end(error.message));
    socket.on("close", () => this.#end("the connection ended"));
    this.#greeted.promise.catch(() => {});
  }

  /** Connects and agrees on capabilities. Rejects with the error of connect(2) where nobody listens, and VmError Hypervisor. */
  static async connect(path: string, options: { readonly signal?: AbortSignal | undefined } = {}): Promise<Qmp> {
    const socket = connect(path);
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    socket.once("connect", resolve);
    socket.once("error", reject);
    await promise;
    const qmp = new Qmp(path, socket);
    try {
      await qmp.#within("greeting", qmp.#greeted.promise, options.signal);
      await qmp.execute("qmp_capabilities", {}, options);
    } catch (error) {
      qmp.close();
      throw error;
    }
    return qmp;
  }

  /** Resolves, with the reason, when the connection has ended: the hypervisor has, or was closed. */
  get ended(): Promise<string> {
    return this.#ended.promise;
  }

  get isOpen(): boolean {
    return this.#isOpen;
  }

  /** Rejects with QmpError where QEMU refuses, and VmError Hypervisor where it is gone or says nothing in time. */
  async execute<T = unknown>(
    command: string,
    args: Readonly<Record<string, unknown>> = {},
    options: { readonly signal?: AbortSignal | undefined } = {},
  ): Promise<T> {
    if (!this.#isOpen) throw new VmError("Hypervisor", `${command}: the hypervisor at ${this.#path} is gone`);
    const id = this.#nextId++;
    const { promise, resolve, reject } = Promise.withResolvers<unknown>();
    this.#pending.set(id, { resolve, reject, command });
    // An id is any value to QEMU, and a text to StratoVirt.
    this.#socket.write(`${JSON.stringify({ execute: command, arguments: args, id: String(id) })}\n`);
    try {
      return (await this.#within(command, promise, options.signal)) as T;
    } finally {
      this.#pending.delete(id);
    }
  }

  /** Until the returned function is called. */
  onEvent(listener: (event: QmpEvent) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** The first event that `wanted` says is it, from now on. Rejects when the hypervisor ends first or after `timeoutMs`. */
  async event(wanted: (event: QmpEvent) => boolean, what: string, timeoutMs = ANSWER_MS): Promise<QmpEvent> {
    const { promise, resolve } = Promise.withResolvers<QmpEvent>();
    const off = this.onEvent((event) => {
      if (wanted(event)) resolve(event);
    });
    try {
      return await this.#within(what, promise, undefined, timeoutMs);
    } finally {
      off();
    }
  }

  close(): void {
    this.#end("it was closed");
  }

  async #within<T>(
    what: string,
    promise: Promise<T>,
    signal: AbortSignal | undefined,
    timeoutMs = ANSWER_MS,
  ): Promise<T> {
    const late = Promise.withResolvers<never>();
    const timer = setTimeout(
      () =>
        late.reject(
          new VmError(
            "Hypervisor",
            `${what}: the hypervisor at ${this.#path} did not answer within ${timeoutMs / 1000} s`,
          ),
        ),
      timeoutMs,
    );
    const abort = (): void => late.reject(signal?.reason as Error);
    signal?.addEventListener("abort", abort, { once: true });
    const gone = this.#ended.promise.then((reason) => {
      throw new VmError("Hypervisor", `${what}: the hypervisor at ${this.#path} is gone: ${reason}`);
    });
    try {
      return await Promise.race([promise, late.promise, gone]);
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener("abort", abort);
    }
  }

  #take(text: string): void {
    this.#buffered += text;
    for (let end = this.#buffered.indexOf("\n"); end >= 0; end = this.#buffered.indexOf("\n")) {
      const line = this.#buffered.slice(0, end).trim();
      this.#buffered = this.#buffered.slice(end + 1);
      if (line !== "" && !this.#dispatch(line)) return;
    }
    if (this.#buffered.length > LONGEST_LINE) this.#end("it sent a line without an end");
  }

  #dispatch(line: string): boolean {
    let message: Record<string, unknown>;
    try {
      message = JSON.parse(line) as Record<string, unknown>;
    } catch {
      this.#end(`it sent what is not JSON: ${line.slice(0, 80)}`);
      return false;
    }
    if (typeof message["event"] === "string")
      this.#tell({ event: message["event"], data: (message["data"] ?? {}) as QmpEvent["data"] });
    else if (message["QMP"] !== undefined) this.#greet(message["QMP"]);
    else this.#answer(message);
    return true;
  }

  #greet(greeting: unknown): void {
    const { qemu, package: own = "" } =
      (greeting as { version?: { qemu?: { major?: number; minor?: number; micro?: number }; package?: string } })
        .version ?? {};
    this.version =
      /^StratoVirt-(\S+)$/.exec(own)?.[1] ?? [qemu?.major ?? 0, qemu?.minor ?? 0, qemu?.micro ?? 0].join(".");
    this.#greeted.resolve();
  }

  #tell(event: QmpEvent): void {
    for (const listener of this.#listeners) listener(event);
  }

  #answer(message: Record<string, unknown>): void {
    // StratoVirt, which answers in order, leaves the id out of some.
    const [first] = this.#pending.keys();
    const pending = this.#pending.get(Number(message["id"] ?? first));
    if (!pending) return;
    const failure = message["error"] as { class?: string; desc?: string } | undefined;
    if (failure === undefined) pending.resolve(message["return"]);
    else pending.reject(new QmpError(pending.command, failure.class ?? "GenericError", failure.desc ?? "failed"));
  }

  #end(reason: string): void {
    if (!this.#isOpen) return;
    this.#isOpen = false;
    this.#socket.destroy();
    this.#ended.resolve(reason);
  }
}
