/**
 * A conversation about one repository with the hosts that have it: each request with its login where the host asks for one,
 * tried again where that may help, and failures in words.
 */
import { formatReference, type Reference, repositoryOf } from "@berth/spec/oci";
import { ImageError } from "../errors.ts";
import type { Credentials } from "../types.ts";
import { type Authorization, authorize, type Challenge, detailOf, parseChallenges } from "./auth.ts";
import type { RegistrySettings } from "./settings.ts";
import { credentialsFor, type HostCredentials } from "./credentials.ts";
import type { Capability, RegistryHost } from "./host.ts";
import { hostsFor } from "./hosts.ts";
import { type Body, type HttpClient, type HttpRequest, type HttpResponse, printableUrl, readBody } from "./http.ts";
import type { ProxySettings } from "./proxy.ts";
import {
  DEFAULT_RETRY,
  isTransientStatus,
  isUnreached,
  parseRetryAfter,
  type RetryPolicy,
  retrying,
  Transient,
} from "./retry.ts";

const ERROR_BODY_MAX = 64 * 1024;

/** What logins brought, to be passed between threads. */
export interface Session {
  /** By host and scopes. */
  readonly authorizations: Readonly<Record<string, Authorization>>;
  /** Hosts that turned out to speak the other scheme. */
  readonly switched: readonly string[];
  /** Hosts that could not be reached, which are asked after all others. */
  readonly unreached: readonly string[];
}

export interface RegistryOptions {
  readonly reference: Reference;
  readonly credentials?: Credentials | undefined;
  /** Of the node, by host; `credentials` count before them. */
  readonly hostCredentials?: HostCredentials | undefined;
  readonly registries?: Partial<RegistrySettings> | undefined;
  readonly session?: Session | undefined;
  readonly signal?: AbortSignal | undefined;
  /** Hosts (their base) that are not asked for content. */
  readonly avoid?: readonly string[] | undefined;
  readonly retry?: RetryPolicy | undefined;
}

export interface Call {
  readonly method: HttpRequest["method"];
  /** Below the repository ("manifests/latest"), or a whole URL where the registry has named one. */
  readonly path: string | URL;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: Body | undefined;
  /** For messages: "blob docker.io/library/busybox@sha256:…". */
  readonly what: string;
  /** What the token is to be good for. Default: pulling from this repository. */
  readonly scopes?: readonly string[];
  /** Statuses that are an answer. Default: 200 and 206. */
  readonly accepts?: readonly number[];
}

const FOUND = [200, 206];
/** Of hosts that are not the last one: the next is asked sooner, and at once where nobody is there. */
const MIRROR = { attempts: 2, unreachedAttempts: 1 };

export class Exchange {
  readonly http: HttpClient;
  readonly options: RegistryOptions;
  readonly retry: RetryPolicy;
  /** "docker.io/library/busybox". */
  readonly name: string;
  readonly #authorizations: Map<string, Authorization>;
  readonly #switched: Set<string>;
  readonly #unreached: Set<string>;
  readonly #avoided: Set<string>;
  #hosts: Promise<RegistryHost[]> | undefined;

  constructor(http: HttpClient, options: RegistryOptions) {
    this.http = http;
    this.options = options;
    this.retry = options.retry ?? DEFAULT_RETRY;
    this.name = repositoryOf(options.reference);
    this.#authorizations = new Map(Object.entries(options.session?.authorizations ?? {}));
    this.#switched = new Set(options.session?.switched);
    this.#unreached = new Set(options.session?.unreached);
    this.#avoided = new Set(options.avoid);
  }

  get session(): Session {
    return {
      authorizations: Object.fromEntries(this.#authorizations),
      switched: [...this.#switched],
      unreached: [...this.#unreached],
    };
  }

  /** "repository:library/busybox:pull,push". */
  scope(actions: string): string {
    return `repository:${this.options.reference.path}:${actions}`;
  }

  /** Does not ask a host for content any more. False: there is no other. */
  async avoid({ base }: Pick<RegistryHost, "base">): Promise<boolean> {
    const others = (await this.hosts("pull")).some((host) => host.base !== base);
    if (others) this.#avoided.add(base);
    return others;
  }

  /** Hosts that can do it, in order; never none. */
  async hosts(capability: Capability): Promise<readonly RegistryHost[]> {
    const { reference, registries } = this.options;
    this.#hosts ??= hostsFor(reference.domain, registries);
    const hosts = await this.#hosts;
    const able = hosts.filter(
      ({ capabilities, base }) =>
        capabilities.includes(capability) && (capability !== "pull" || !this.#avoided.has(base)),
    );
    if (able.length > 0) return able;
    throw new ImageError(
      "InvalidConfiguration",
      `no host in hosts.toml can "${capability}" for ${formatReference(reference)}`,
    );
  }

  /** Asks every host that can, in order, until one answers; of several failures the one told is that which helps most. */
  async ask<T>(
    capability: Capability,
    call: Call,
    use: (response: HttpResponse, host: RegistryHost) => Promise<T>,
  ): Promise<T> {
    const hosts = await this.hosts(capability);
    const able = [...hosts].sort((a, b) => Number(this.#unreached.has(a.base)) - Number(this.#unreached.has(b.base)));
    const failures: ImageError[] = [];
    for (const [index, host] of able.entries()) {
      const policy = index === able.length - 1 ? this.retry : { ...this.retry, ...MIRROR };
      try {
        return await retrying(policy, this.options.signal, async () => await use(await this.send(host, call), host));
      } catch (error) {
        if (!(error instanceof ImageError) || error.code === "Canceled" || error.code === "DeadlineExceeded")
          throw error;
        if (isUnreached(error)) this.#unreached.add(host.base);
        failures.push(error);
      }
    }
    throw worst(failures, call.what);
  }

  /** One request to one host, with one login where it asks for it. Throws Transient for what may pass, ImageError. */
  async send(host: RegistryHost, call: Call): Promise<HttpResponse> {
    let response = await this.#request(host, call);
    // Whoever was redirected to gets no login, and has no say in where credentials go.
    const own = response.url.host === new URL(host.base).host;
    if (response.status === 401 && own && (await this.#login(host, call, response)))
      response = await this.#request(host, call);
    if ((call.accepts ?? FOUND).includes(response.status)) return response;
    throw await this.refusal(response, call);
  }

  async #request(host: RegistryHost, call: Call): Promise<HttpResponse> {
    const { other } = host;
    if (other === undefined || call.path instanceof URL) return await this.#toHost(host, call);
    if (this.#switched.has(host.base)) return await this.#toHost({ ...host, ...other }, call);
    const response = await this.#toHost(host, call).catch((error: unknown) => {
      if (error instanceof Transient && isOtherScheme(error.error)) return undefined;
      throw error;
    });
    if (response !== undefined && !(await isAnswerOfTls(response))) return response;
    const answer = await this.#toHost({ ...host, ...other }, call);
    this.#switched.add(host.base);
    return answer;
  }

  async #toHost(host: RegistryHost, call: Call): Promise<HttpResponse> {
    const url = call.path instanceof URL ? call.path : this.#url(host, call.path);
    const own = url.origin === new URL(host.base).origin;
    const authorization = own ? await this.#authorizationFor(host, call) : undefined;
    const headers = {
      "user-agent": "berth",
      // Else a proxy might compress once more, which digests and ranges are not of.
      "accept-encoding": "identity",
      ...(own ? host.headers : {}),
      ...call.headers,
      ...(authorization === undefined ? {} : { authorization }),
    };
    const { signal, registries } = this.options;
    const response = await this.http
      .request({
        method: call.method,
        url,
        headers,
        body: call.body,
        tls: own ? host.tls : {},
        proxy: proxyOf(host, registries),
        dialTimeoutMs: host.dialTimeoutMs,
        signal,
      })
      .catch(asTransient);
    const coding = response.headers["content-encoding"] ?? "identity";
    if (coding === "identity" || call.method === "HEAD") return response;
    response.body.destroy();
    throw new ImageError(
      "RegistryError",
      `${call.what}: ${printableUrl(response.url)} sent it with content coding "${coding}", which was not asked for`,
      { url: printableUrl(response.url) },
    );
  }

  #url(host: RegistryHost, path: string): URL {
    const { reference } = this.options;
    const url = new URL(path === "" ? `${host.base}/` : `${host.base}/${reference.path}/${path}`);
    if (host.mirror) url.searchParams.set("ns", reference.domain);
    return url;
  }

  #scopes(call: Call): readonly string[] {
    return call.scopes ?? [this.scope("pull")];
  }

  #key(host: RegistryHost, call: Call): string {
    return [new URL(host.base).host, ...this.#scopes(call)].join(" ");
  }

  async #authorizationFor(host: RegistryHost, call: Call): Promise<string | undefined> {
    const known = this.#authorizations.get(this.#key(host, call));
    if (known !== undefined) {
      if (known.expiresAt > Date.now()) return known.header;
      // What it will ask for is known: a request that only shows that the token has ended can be spared.
      if (known.renewal !== undefined && (await this.#authorize(host, call, known.renewal)))
        return this.#authorizations.get(this.#key(host, call))?.header;
    }
    const { registryToken } = credentialsFor(host, this.options) ?? {};
    return registryToken === undefined || registryToken === "" ? undefined : `Bearer ${registryToken}`;
  }

  async #login(host: RegistryHost, call: Call, response: HttpResponse): Promise<boolean> {
    response.body.resume();
    const header = response.headers["www-authenticate"];
    if (header === undefined) return false;
    return await this.#authorize(host, call, {
      url: response.url.origin + response.url.pathname,
      challenges: parseChallenges(header),
    });
  }

  async #authorize(
    host: RegistryHost,
    call: Call,
    renewal: { readonly url: string; readonly challenges: readonly Challenge[] },
  ): Promise<boolean> {
    const { http, options } = this;
    const authorization = await authorize(renewal.challenges, new URL(renewal.url), this.#scopes(call), {
      http,
      credentials: credentialsFor(host, options),
      tls: host.tls,
      proxy: proxyOf(host, options.registries),
      signal: options.signal,
    }).catch(asTransient);
    if (authorization === undefined) return false;
    this.#authorizations.set(this.#key(host, call), { ...authorization, renewal });
    return true;
  }

  /** What an answer that is none means: Transient where it may pass. */
  async refusal(response: HttpResponse, { what, scopes = [] }: Pick<Call, "what" | "scopes">): Promise<Error> {
    const { status } = response;
    const { signal } = this.options;
    const url = printableUrl(response.url);
    const body = await readBody(response, ERROR_BODY_MAX, "the registry's error", signal).catch((error: unknown) => {
      if (signal?.aborted === true) throw error;
      return Buffer.alloc(0);
    });
    const detail = detailOf(body);
    const error = (code: ImageError["code"], message: string): ImageError =>
      new ImageError(code, message, { status, url });
    if (isTransientStatus(status)) {
      const told = `${what}: ${url} answered ${status}${status === 429 ? " (too many requests)" : ""}${detail}`;
      const code = status === 429 ? "RateLimited" : "Unavailable";
      return new Transient(error(code, told), parseRetryAfter(response.headers["retry-after"]));
    }
    if (status === 404) return error("NotFound", `not found: ${what} (${url} answered 404${detail})`);
    if (status === 401 || status === 403) {
      const doing = scopes.some((scope) => scope.includes("push")) ? "push" : "pull";
      const { credentials, hostCredentials = {} } = this.options;
      const given = credentials !== undefined || Object.keys(hostCredentials).length > 0;
      const advice = given ? `the credentials given may not ${doing} it` : "may need a login";
      return error(
        "Unauthorized",
        `${doing} access denied or no such repository: ${this.name} (${url} answered ${status}${detail}); ${advice}`,
      );
    }
    if (status === 407)
      return error(
        "Unavailable",
        `${what}: the proxy answered 407: it wants a user and password, as in http://user:password@proxy:3128`,
      );
    if (status === 400 && speaksTls(body))
      return error("RegistryError", `${what}: ${url} speaks TLS: name it with https:// in hosts.toml`);
    return error("RegistryError", `${what}: ${url} answered ${status}${detail}`);
  }
}

function proxyOf(
  { proxy }: RegistryHost,
  registries: Partial<RegistrySettings> | undefined,
): ProxySettings | undefined {
  return proxy === undefined ? registries?.proxy : { always: proxy };
}

/** Go's servers and nginx answer a plain request so where TLS is spoken. */
function speaksTls(body: Buffer): boolean {
  return /HTTP request (to an|was sent to) HTTPS/.test(body.toString("latin1"));
}

async function isAnswerOfTls(response: HttpResponse): Promise<boolean> {
  if (response.status !== 400 || response.url.protocol !== "http:") return false;
  // Of no more than a refusal's size; whatever else it is, the host refuses this request in both schemes.
  return speaksTls(await readBody(response, ERROR_BODY_MAX, "the registry's error").catch(() => Buffer.alloc(0)));
}

/** How a host says, in trying, that it speaks TLS (it hangs up) or does not (its answer is no TLS record). */
function isOtherScheme({ cause }: ImageError): boolean {
  const { code = "" } = (cause ?? {}) as { code?: string };
  return code === "EPROTO" || code === "ECONNRESET" || code.startsWith("HPE_") || code.startsWith("ERR_SSL");
}

/** Unavailability passes; all else is final. */
export function asTransient(error: unknown): never {
  throw error instanceof ImageError && error.code === "Unavailable" ? new Transient(error) : error;
}

/** Of several hosts' failures the one that helps most: a denial or an absence at the registry itself, else the first. */
function worst(failures: readonly ImageError[], what: string): ImageError {
  const last = failures.at(-1);
  if (last === undefined) return new ImageError("RegistryError", `${what}: no host was asked`);
  if (failures.length === 1) return last;
  const told = failures.find((failure) => failure.code === "NotFound" || failure.code === "Unauthorized") ?? last;
  const others = failures.filter((failure) => failure !== told).map((failure) => failure.message);
  return new ImageError(told.code, `${told.message}; also tried: ${others.join("; ")}`, {
    status: told.status,
    url: told.url,
  });
}
