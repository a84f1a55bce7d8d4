/** A hypervisor's API: HTTP on a unix socket, JSON both ways. A connection for each request, and one that tells when the hypervisor ends. */
import { connect, type Socket } from "node:net";
import { VmError } from "../errors.ts";

const { request } = process.getBuiltinModule("node:http");

/** Longer than a hypervisor takes to answer under load. */
const ANSWER_MS = 30_000;
/** What is longer is no answer of a hypervisor's. */
const LONGEST = 16 << 20;

export type Method = "GET" | "PUT" | "PATCH";

export interface CallOptions {
  readonly signal?: AbortSignal | undefined;
}

/** A request that was refused, with the status of its answer. */
export class HttpApiError extends VmError {
  readonly status: number;
  constructor(what: string, status: number, said: string) {
    super("Hypervisor", `${what}: ${said === "" ? `status ${status}` : said}`);
    this.status = status;
  }
}

export class HttpApi {
  readonly #path: string;
  readonly #watch: Socket;
  readonly #ended = Promise.withResolvers<string>();
  /** These servers have few connections: requests wait for one another. */
  #last: Promise<unknown> = Promise.resolve();
  #isOpen = true;

  private constructor(path: string, watch: Socket) {
    this.#path = path;
    this.#watch = watch;
    watch.resume();
    watch.on("error", (error) => this.#end(error.message));
    watch.on("close", () => this.#end("the connection ended"));
  }

  /** Rejects with the error of connect(2) where nobody listens. */
  static async connect(path: string): Promise<HttpApi> {
    const socket = connect(path);
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    socket.once("connect", resolve);
    socket.once("error", reject);
    await promise;
    return new HttpApi(path, socket);
  }

  get ended(): Promise<string> {
    return this.#ended.promise;
  }

  get isOpen(): boolean {
    return this.#isOpen;
  }

  /** Rejects with HttpApiError where it is refused, and VmError Hypervisor where the hypervisor is gone or says nothing in time. */
  async call<T = undefined>(method: Method, route: string, body?: unknown, options: CallOptions = {}): Promise<T> {
    const before = this.#last.catch(() => {});
    const answer = before.then(() => this.#call(method, route, body, options));
    this.#last = answer;
    return (await answer) as T;
  }

  close(): void {
    this.#end("it was closed");
  }

  async #call(method: Method, route: string, body: unknown, { signal }: CallOptions): Promise<unknown> {
    const what = `${method} ${route}`;
    if (!this.#isOpen) throw new VmError("Hypervisor", `${what}: the hypervisor at ${this.#path} is gone`);
    const stop = new AbortController();
    const gone = this.#ended.promise.then((reason) => {
      throw new VmError("Hypervisor", `${what}: the hypervisor at ${this.#path} is gone: ${reason}`);
    });
    const late = Promise.withResolvers<never>();
    const timer = setTimeout(
      () =>
        late.reject(
          new VmError(
            "Hypervisor",
            `${what}: the hypervisor at ${this.#path} did not answer within ${ANSWER_MS / 1000} s`,
          ),
        ),
      ANSWER_MS,
    );
    const abort = (): void => late.reject(signal?.reason as Error);
    signal?.addEventListener("abort", abort, { once: true });
    const asked = this.#ask(method, route, body, stop.signal);
    asked.catch(() => {});
    try {
      const { status, text } = await Promise.race([asked, late.promise, gone]);
      if (status >= 300) throw new HttpApiError(what, status, wordsOf(text));
      return text === "" ? undefined : parsed(what, text);
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener("abort", abort);
      stop.abort();
    }
  }

  #ask(method: Method, route: string, body: unknown, signal: AbortSignal): Promise<{ status: number; text: string }> {
    const { promise, resolve, reject } = Promise.withResolvers<{ status: number; text: string }>();
    const data = body === undefined ? undefined : Buffer.from(JSON.stringify(body));
    const headers = {
      Accept: "application/json",
      ...(data && { "Content-Type": "application/json", "Content-Length": data.length }),
    };
    const call = request({ socketPath: this.#path, path: route, method, headers, signal, agent: false }, (response) => {
      const chunks: Buffer[] = [];
      let length = 0;
      response.on("data", (chunk: Buffer) => {
        length += chunk.length;
        if (length > LONGEST) call.destroy(new Error("its answer has no end"));
        else chunks.push(chunk);
      });
      response.on("error", fail);
      response.on("end", () =>
        resolve({ status: response.statusCode ?? 0, text: Buffer.concat(chunks).toString().trim() }),
      );
    });
    const fail = (error: Error): void =>
      reject(new VmError("Hypervisor", `${method} ${route}: ${error.message}`, { cause: error }));
    call.on("error", fail);
    call.end(data);
    return promise;
  }

  #end(reason: string): void {
    if (!this.#isOpen) return;
    this.#isOpen = false;
    this.#watch.destroy();
    this.#ended.resolve(reason);
  }
}

function parsed(what: string, text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    throw new VmError("Hypervisor", `${what}: the hypervisor answered what is not JSON: ${text.slice(0, 80)}`);
  }
}

/** Firecracker says {"fault_message": …}, Cloud Hypervisor a list of causes, both now and then bare words. */
function wordsOf(text: string): string {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return text;
  }
  if (Array.isArray(value)) return value.map(String).join(": ");
  if (typeof value !== "object" || value === null) return String(value);
  const { fault_message: fault } = value as { fault_message?: unknown };
  return typeof fault === "string" ? fault.trim() : text;
}
