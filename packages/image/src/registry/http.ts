/**
 * HTTP for registries, on Node's own client: it costs a worker 5 ms and 9 MB to load, where undici costs 44 ms and 26 MB
 * (measured), and a registry needs no more. Redirects are followed without credentials; retries are the caller's
 * (retry.ts).
 */
import type { ClientRequest, IncomingMessage } from "node:http";
import { request as httpsRequest } from "node:https";
import { canceled, ImageError } from "../errors.ts";
import { Agents, type TlsOptions } from "./agents.ts";
import {
  isLoopback,
  isSocks,
  proxyAuthorization,
  proxyFor,
  proxyFromEnvironment,
  type ProxySettings,
} from "./proxy.ts";
import { proxyError } from "./tunnel.ts";

// Imported, node:http would load all of undici for three of its names: 16 MB and 50 ms.
const { request: httpRequest } = process.getBuiltinModule("node:http");

export type { TlsOptions } from "./agents.ts";
export { isLoopback } from "./proxy.ts";

/** What is sent; a stream's `size` is promised before its bytes are there, and it is made anew for each attempt. */
export type Body = string | Uint8Array | { readonly size: number; readonly stream: () => AsyncIterable<Uint8Array> };

export interface HttpRequest {
  readonly method: "GET" | "HEAD" | "POST" | "PUT" | "PATCH" | "DELETE";
  readonly url: URL;
  readonly headers: Readonly<Record<string, string | readonly string[]>>;
  readonly body?: Body | undefined;
  readonly tls?: TlsOptions | undefined;
  /** Default: the environment's. */
  readonly proxy?: ProxySettings | undefined;
  /** Milliseconds until a connection stands. */
  readonly dialTimeoutMs?: number | undefined;
  readonly signal?: AbortSignal | undefined;
}

export interface HttpResponse {
  readonly status: number;
  /** Of the answer, after redirects. */
  readonly url: URL;
  readonly headers: IncomingMessage["headers"];
  /** To be read to its end, or destroyed. */
  readonly body: IncomingMessage;
}

const DIAL_TIMEOUT = 30_000;
/** Silence on a connection that ends it: while something is fetched, and while a registry stores what it was sent. */
const IDLE_TIMEOUT = 60_000;
const STORE_TIMEOUT = 300_000;
const REDIRECTS_MAX = 10;
const REDIRECTS = new Set([301, 302, 303, 307, 308]);
/** What goes to another origin. All else may be a secret: Authorization, but also whatever hosts.toml has set. */
const HARMLESS = new Set(["accept", "accept-encoding", "range", "user-agent", "content-type"]);

export class HttpClient {
  readonly #agents = new Agents();

  /** The answer with its body unread. Rejects with ImageError Unavailable where there is none, Canceled after an abort. */
  async request(request: HttpRequest): Promise<HttpResponse> {
    let { url, headers, tls } = request;
    for (let hop = 0; ; hop++) {
      const body = await this.#once({ ...request, url, headers, tls });
      const status = body.statusCode ?? 0;
      const location = body.headers.location;
      if (location === undefined || !mayFollow(status, request)) return { status, url, headers: body.headers, body };
      body.destroy();
      if (hop === REDIRECTS_MAX)
        throw new ImageError("RegistryError", `${printableUrl(request.url)}: more than ${REDIRECTS_MAX} redirects`, {
          url: printableUrl(request.url),
        });
      const next = redirectTarget(url, location);
      if (next.origin !== url.origin) {
        headers = Object.fromEntries(Object.entries(headers).filter(([name]) => HARMLESS.has(name.toLowerCase())));
        tls = {
          ...(tls?.ca === undefined ? {} : { ca: tls.ca }),
          ...(tls?.skipVerify === undefined ? {} : { skipVerify: tls.skipVerify }),
        };
      }
      url = next;
    }
  }

  /** Ends idle connections; requests under way go on. */
  close(): void {
    this.#agents.close();
  }

  async #once(request: HttpRequest): Promise<IncomingMessage> {
    try {
      return await this.#send(request);
    } catch (error) {
      // A connection kept alive that the server closed in the same moment: nothing of the request was heard.
      if (error instanceof StaleConnection) return await this.#send(request, true);
      throw error;
    }
  }

  #send(request: HttpRequest, fresh = false): Promise<IncomingMessage> {
    const { url, signal, method } = request;
    const where = printableUrl(url);
    return new Promise((resolve, reject) => {
      if (signal?.aborted === true) return reject(canceled(signal, `${method} ${where}`));
      const proxy = proxyFor(url, request.proxy ?? environmentProxy());
      const outgoing = this.#open(request, proxy);
      const fail = (error: NodeJS.ErrnoException): Error => {
        if (signal?.aborted === true) return canceled(signal, `${method} ${where}`);
        // Of the stream that is sent, not of the connection.
        if (error instanceof ImageError) return error;
        if (!fresh && outgoing.reusedSocket && error.code === "ECONNRESET") return new StaleConnection();
        const plain = proxy !== undefined && url.protocol === "http:" && !isSocks(proxy);
        const told = plain ? proxyError(proxy, error) : error;
        return new ImageError("Unavailable", `${method} ${where}: ${reasonOf(told)}`, { url: where, cause: error });
      };
      // Without waiting for the connection, which a proxy may still be making.
      const giveUp = (error: Error): void => {
        outgoing.destroy(error);
        reject(fail(error));
      };
      const aborted = (): void => giveUp(new Error("aborted"));
      signal?.addEventListener("abort", aborted, { once: true });
      const dialTimeout = request.dialTimeoutMs ?? DIAL_TIMEOUT;
      const dial = setTimeout(() => giveUp(timedOut(dialTimeout)), dialTimeout);
      const begun = (): void => {
        clearTimeout(dial);
        signal?.removeEventListener("abort", aborted);
      };
      outgoing.once("socket", (socket) => {
        if (!socket.connecting) clearTimeout(dial);
        else socket.once(url.protocol === "https:" ? "secureConnect" : "connect", () => clearTimeout(dial));
      });
      const idle = method === "GET" || method === "HEAD" ? IDLE_TIMEOUT : STORE_TIMEOUT;
      outgoing.setTimeout(idle, () => outgoing.destroy(new Error(`no data for ${idle / 1000} s`)));
      outgoing.once("close", begun);
      outgoing.on("error", (error) => reject(fail(error)));
      outgoing.once("response", (response) => {
        begun();
        resolve(response);
      });
      sendBody(outgoing, request.body);
    });
  }

  #open(request: HttpRequest, proxy: URL | undefined): ClientRequest {
    const { url, method, body, signal, tls } = request;
    const secure = url.protocol === "https:";
    const length = sizeOf(body);
    const headers = { ...request.headers, ...(length === undefined ? {} : { "content-length": String(length) }) };
    const options = { method, ...(signal === undefined ? {} : { signal }) };
    const dialTimeout = request.dialTimeoutMs ?? DIAL_TIMEOUT;
    if (proxy === undefined || secure || isSocks(proxy)) {
      const agent = this.#agents.agent(secure, tls, proxy, dialTimeout);
      return (secure ? httpsRequest : httpRequest)(url, { ...options, headers, agent });
    }
    // What a proxy is asked for in plain is the whole URL (RFC 9112, section 3.2.2).
    const secureProxy = proxy.protocol === "https:";
    const authorization = proxyAuthorization(proxy);
    return (secureProxy ? httpsRequest : httpRequest)({
      ...options,
      host: proxy.hostname.replace(/^\[|\]$/g, ""),
      port: proxy.port || (secureProxy ? 443 : 80),
      path: `${url.origin}${url.pathname}${url.search}`,
      headers: {
        ...headers,
        host: url.host,
        ...(authorization === undefined ? {} : { "proxy-authorization": authorization }),
      },
      agent: this.#agents.agent(secureProxy, undefined, undefined, dialTimeout),
    });
  }
}

class StaleConnection extends Error {}

function timedOut(ms: number): Error {
  return Object.assign(new Error(`no connection within ${ms / 1000} s`), { code: "ETIMEDOUT" });
}

let environment: ProxySettings | undefined;
const environmentProxy = (): ProxySettings => (environment ??= proxyFromEnvironment(process.env));

/** A body that was read once cannot be sent to another place; 301 to 303 would turn a POST into a GET. */
function mayFollow(status: number, { method, body }: HttpRequest): boolean {
  if (!REDIRECTS.has(status)) return false;
  if (method === "GET" || method === "HEAD") return true;
  return (status === 307 || status === 308) && (body === undefined || typeof body === "string");
}

function sizeOf(body: Body | undefined): number | undefined {
  if (body === undefined) return undefined;
  return typeof body === "string" ? Buffer.byteLength(body) : body instanceof Uint8Array ? body.length : body.size;
}

/** Sends as fast as the other side takes it, and stops where it has answered or gone. */
function sendBody(outgoing: ClientRequest, body: Body | undefined): void {
  if (body === undefined || typeof body === "string" || body instanceof Uint8Array) {
    outgoing.end(body);
    return;
  }
  let over = false;
  outgoing.once("response", () => (over = true)).once("close", () => (over = true));
  const send = async (): Promise<void> => {
    for await (const chunk of body.stream()) {
      if (over) return;
      if (!outgoing.write(chunk)) await roomIn(outgoing);
    }
    if (!over) outgoing.end();
  };
  send().catch((error: unknown) => outgoing.destroy(error as Error));
}

function roomIn(outgoing: ClientRequest): Promise<void> {
  return new Promise((resolve) => {
    const events = ["drain", "response", "close"] as const;
    const done = (): void => {
      for (const event of events) outgoing.off(event, done);
      resolve();
    };
    for (const event of events) outgoing.on(event, done);
  });
}

function redirectTarget(from: URL, location: string): URL {
  let next: URL;
  try {
    next = new URL(location, from);
  } catch {
    throw new ImageError("RegistryError", `${printableUrl(from)} redirects to "${location}", which is no URL`, {
      url: printableUrl(from),
    });
  }
  if (next.protocol !== "https:" && next.protocol !== "http:")
    throw new ImageError("RegistryError", `${printableUrl(from)} redirects to ${next.protocol}, which is not HTTP`, {
      url: printableUrl(from),
    });
  if (from.protocol === "https:" && next.protocol === "http:" && !isLoopback(next.hostname)) {
    throw new ImageError(
      "RegistryError",
      `${printableUrl(from)} redirects from HTTPS to plain HTTP at ${next.host}: refused`,
      { url: printableUrl(from) },
    );
  }
  return next;
}

/** Reads a whole body. Throws LimitExceeded past `limit` bytes, Unavailable if it breaks off. */
export async function readBody(
  response: HttpResponse,
  limit: number,
  what: string,
  signal?: AbortSignal,
): Promise<Buffer> {
  const chunks: Buffer[] = [];
  let size = 0;
  try {
    for await (const chunk of response.body as AsyncIterable<Buffer>) {
      size += chunk.length;
      if (size > limit)
        throw new ImageError("LimitExceeded", `${what} is larger than ${limit} bytes`, {
          url: printableUrl(response.url),
        });
      chunks.push(chunk);
    }
  } catch (error) {
    throw bodyError(error, response.url, signal);
  }
  return Buffer.concat(chunks);
}

/** What a failure while reading a body means. */
export function bodyError(error: unknown, url: URL, signal: AbortSignal | undefined): ImageError {
  if (error instanceof ImageError) return error;
  if (signal?.aborted === true) return canceled(signal, `GET ${printableUrl(url)}`);
  return new ImageError("Unavailable", `GET ${printableUrl(url)}: broke off: ${reasonOf(error as Error)}`, {
    url: printableUrl(url),
    cause: error,
  });
}

/** Without the query, where signed storage URLs keep their secrets. */
export function printableUrl(url: URL): string {
  return `${url.origin}${url.pathname}`;
}

function reasonOf(error: Error): string {
  const { code } = error as { code?: string };
  const inner = error instanceof AggregateError && error.errors.length > 0 ? (error.errors[0] as Error) : error;
  switch (code) {
    case "ECONNREFUSED":
      return "connection refused (is the registry running?)";
    case "ENOTFOUND":
    case "EAI_AGAIN":
      return "no such host (check the name and this machine's DNS)";
    case "DEPTH_ZERO_SELF_SIGNED_CERT":
    case "SELF_SIGNED_CERT_IN_CHAIN":
    case "UNABLE_TO_VERIFY_LEAF_SIGNATURE":
    case "UNABLE_TO_GET_ISSUER_CERT_LOCALLY":
      return `the certificate is not trusted (${code}): name its authority as "ca" in hosts.toml`;
    case "EPROTO":
      return `no TLS there (${inner.message.split("\n")[0]}): if the registry speaks plain HTTP, say so with http:// in hosts.toml`;
    default:
      return inner.message === "" ? (code ?? inner.name) : inner.message;
  }
}
