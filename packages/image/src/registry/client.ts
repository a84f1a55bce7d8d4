/**
 * A client of one repository, to the OCI distribution specification 1.1: manifests and blobs by tag and digest from the
 * hosts that hosts.ts names, each digest verified. It lives in a worker; main and workers share what a login brought by
 * passing `session` on.
 */
import {
  digestOf,
  formatReference,
  image,
  isDigest,
  parseDigest,
  type Reference,
  repositoryOf,
  verifyDigest,
} from "@berth/spec/oci";
import { ImageError } from "../errors.ts";
import type { Credentials } from "../types.ts";
import { type Authorization, authorize, detailOf, parseChallenges } from "./auth.ts";
import { bodyError, type HttpClient, type HttpResponse, printableUrl, readBody } from "./http.ts";
import { type Capability, hostsFor, type RegistryHost } from "./hosts.ts";
import {
  backoff,
  DEFAULT_RETRY,
  isTransientStatus,
  parseRetryAfter,
  pause,
  type RetryPolicy,
  retrying,
  Transient,
} from "./retry.ts";

/** Bytes of a manifest or index; registries must take 4 MiB (distribution specification, "Pushing Manifests"). */
export const MANIFEST_MAX = 4 << 20;
/** Bytes of a config, which is read whole. */
export const CONFIG_MAX = 16 << 20;
const ERROR_BODY_MAX = 64 * 1024;

const ACCEPT = [
  image.MEDIA.ociIndex,
  image.MEDIA.ociManifest,
  image.MEDIA.dockerIndex,
  image.MEDIA.dockerManifest,
  "*/*",
].join(", ");

/** Authorizations by host, to be passed between threads. */
export type Session = Readonly<Record<string, Authorization>>;

export interface RegistryOptions {
  readonly reference: Reference;
  readonly credentials?: Credentials | undefined;
  readonly hostsDir?: string | undefined;
  readonly session?: Session | undefined;
  readonly signal?: AbortSignal | undefined;
  readonly retry?: RetryPolicy | undefined;
}

export interface FetchedManifest {
  readonly digest: string;
  readonly mediaType: string;
  readonly bytes: Uint8Array;
}

export class RegistryClient {
  readonly #http: HttpClient;
  readonly #options: RegistryOptions;
  readonly #retry: RetryPolicy;
  readonly #name: string;
  readonly #authorizations: Map<string, Authorization>;
  #hosts: Promise<RegistryHost[]> | undefined;

  constructor(http: HttpClient, options: RegistryOptions) {
    this.#http = http;
    this.#options = options;
    this.#retry = options.retry ?? DEFAULT_RETRY;
    this.#name = repositoryOf(options.reference);
    this.#authorizations = new Map(Object.entries(options.session ?? {}));
  }

  get session(): Session {
    return Object.fromEntries(this.#authorizations);
  }

  /** The digest that the reference has now, without its content; undefined where no host says. Throws like `manifest`. */
  async head(): Promise<string | undefined> {
    const { reference } = this.#options;
    const found = await this.#ask(
      "resolve",
      "HEAD",
      `manifests/${reference.digest ?? reference.tag ?? "latest"}`,
      { accept: ACCEPT },
      formatReference(reference),
      async (response) => {
        response.body.resume();
        return response.headers["docker-content-digest"];
      },
    );
    const digest = Array.isArray(found) ? found[0] : found;
    if (digest !== undefined && reference.digest !== undefined && digest !== reference.digest)
      throw mismatch(`manifest ${formatReference(reference)}`, reference.digest, digest);
    return digest;
  }

  /** The manifest or index of the reference, or of `digest`. */
  async manifest(digest: string | undefined = this.#options.reference.digest): Promise<FetchedManifest> {
    const { reference } = this.#options;
    const named = digest ?? reference.tag ?? "latest";
    const what = digest === undefined ? formatReference(reference) : `${this.#name}@${digest}`;
    return await this.#ask(
      digest === undefined ? "resolve" : "pull",
      "GET",
      `manifests/${named}`,
      { accept: ACCEPT },
      what,
      async (response) => {
        const bytes = await readBody(response, MANIFEST_MAX, `manifest ${what}`, this.#options.signal).catch(
          asTransient,
        );
        return checkedManifest(bytes, response, digest, what);
      },
    );
  }

  /** A small blob, whole. */
  async small(descriptor: image.Descriptor, limit: number = CONFIG_MAX): Promise<Uint8Array> {
    if (descriptor.size > limit)
      throw new ImageError(
        "LimitExceeded",
        `${this.#name}@${descriptor.digest} says it has ${descriptor.size} bytes (at most ${limit})`,
      );
    const chunks: Uint8Array[] = [];
    for await (const chunk of this.blob(descriptor)) chunks.push(chunk);
    const bytes = Buffer.concat(chunks);
    if (!verifyDigest(descriptor.digest, bytes))
      throw new ImageError(
        "DigestMismatch",
        `blob ${this.#name}@${descriptor.digest}: the registry sent other content`,
      );
    return bytes;
  }

  /**
   * A blob's bytes, exactly `descriptor.size` of them. A connection that breaks is taken up again where it broke. The
   * caller verifies the digest, as it sees all bytes.
   */
  async *blob(descriptor: image.Descriptor): AsyncGenerator<Uint8Array, void, undefined> {
    parseDigest(descriptor.digest);
    const what = `blob ${this.#name}@${descriptor.digest}`;
    let done = 0;
    for (let broken = 0; ;) {
      const before = done;
      try {
        for await (const chunk of await this.#open(descriptor, done, what)) {
          done += chunk.length;
          if (done > descriptor.size)
            throw new ImageError(
              "DigestMismatch",
              `${what}: longer than the ${descriptor.size} bytes of its descriptor`,
            );
          yield chunk;
        }
        if (done === descriptor.size) return;
        throw new Transient(new ImageError("Unavailable", `${what}: ended after ${done} of ${descriptor.size} bytes`));
      } catch (error) {
        if (!(error instanceof Transient)) throw error;
        broken = done > before ? 1 : broken + 1;
        if (broken >= this.#retry.attempts) throw error.error;
        if (done === before) await pause(backoff(this.#retry, broken), this.#options.signal);
      }
    }
  }

  /** The blob's bytes from `offset` on. */
  async #open(descriptor: image.Descriptor, offset: number, what: string): Promise<AsyncIterable<Uint8Array>> {
    const range = offset === 0 ? {} : { range: `bytes=${offset}-` };
    // Without the identity coding a proxy might compress a layer once more, and ranges would be of that.
    return await this.#ask(
      "pull",
      "GET",
      `blobs/${descriptor.digest}`,
      { ...range, "accept-encoding": "identity" },
      what,
      async (response) => {
        const partial = response.status === 206;
        if (partial && rangeStart(response) !== offset)
          throw new ImageError("RegistryError", `${what}: the registry answered another range than was asked for`, {
            url: printableUrl(response.url),
          });
        return this.#bytes(response, partial ? 0 : offset);
      },
    );
  }

  async *#bytes(response: HttpResponse, skip: number): AsyncGenerator<Uint8Array, void, undefined> {
    let left = skip;
    try {
      for await (const chunk of response.body as AsyncIterable<Buffer>) {
        const used = left === 0 ? chunk : chunk.subarray(Math.min(left, chunk.length));
        left -= chunk.length - used.length;
        if (used.length > 0) yield used;
      }
    } catch (error) {
      const told = bodyError(error, response.url, this.#options.signal);
      throw told.code === "Unavailable" ? new Transient(told) : told;
    }
  }

  /** Asks every host that can, in order, until one answers; the first failure is the one told, unless a later one says more. */
  async #ask<T>(
    capability: Capability,
    method: "GET" | "HEAD",
    path: string,
    headers: Record<string, string>,
    what: string,
    use: (response: HttpResponse) => Promise<T>,
  ): Promise<T> {
    this.#hosts ??= hostsFor(this.#options.reference.domain, this.#options.hostsDir);
    const able = (await this.#hosts).filter((host) => host.capabilities.includes(capability));
    if (able.length === 0)
      throw new ImageError(
        "InvalidConfiguration",
        `no host in hosts.toml can "${capability}" for ${this.#options.reference.domain}`,
      );
    const failures: ImageError[] = [];
    for (const [index, host] of able.entries()) {
      const policy =
        index < able.length - 1 ? { ...this.#retry, attempts: Math.min(2, this.#retry.attempts) } : this.#retry;
      try {
        return await retrying(
          policy,
          this.#options.signal,
          async () => await use(await this.#send(host, method, path, headers, what)),
        );
      } catch (error) {
        if (!(error instanceof ImageError) || error.code === "Canceled") throw error;
        failures.push(error);
      }
    }
    throw worst(failures, what);
  }

  /** One request to one host, with one login where it asks for it. Throws Transient for what may pass. */
  async #send(
    host: RegistryHost,
    method: "GET" | "HEAD",
    path: string,
    headers: Record<string, string>,
    what: string,
  ): Promise<HttpResponse> {
    const url = new URL(`${host.base}/${this.#options.reference.path}/${path}`);
    if (host.mirror) url.searchParams.set("ns", this.#options.reference.domain);
    let response = await this.#request(host, method, url, headers);
    if (response.status === 401 && (await this.#login(host, response)))
      response = await this.#request(host, method, url, headers);
    if (response.status === 200 || response.status === 206) return response;
    throw await this.#refusal(response, what);
  }

  async #request(
    host: RegistryHost,
    method: "GET" | "HEAD",
    url: URL,
    headers: Record<string, string>,
  ): Promise<HttpResponse> {
    const authorization = this.#authorizationFor(host);
    const all = {
      "user-agent": "berth",
      ...host.headers,
      ...headers,
      ...(authorization === undefined ? {} : { authorization }),
    };
    return await this.#http
      .request({
        method,
        url,
        headers: all,
        tls: host.tls,
        dialTimeoutMs: host.dialTimeoutMs,
        signal: this.#options.signal,
      })
      .catch(asTransient);
  }

  #authorizationFor(host: RegistryHost): string | undefined {
    const known = this.#authorizations.get(host.base);
    if (known !== undefined && known.expiresAt > Date.now()) return known.header;
    const { registryToken } = this.#credentialsFor(host) ?? {};
    return registryToken === undefined || registryToken === "" ? undefined : `Bearer ${registryToken}`;
  }

  async #login(host: RegistryHost, response: HttpResponse): Promise<boolean> {
    response.body.resume();
    const header = response.headers["www-authenticate"];
    if (header === undefined) return false;
    const scope = `repository:${this.#options.reference.path}:pull`;
    const by = {
      http: this.#http,
      credentials: this.#credentialsFor(host),
      tls: host.tls,
      signal: this.#options.signal,
    };
    const authorization = await authorize(
      parseChallenges(header),
      new URL(response.url.origin + response.url.pathname),
      scope,
      by,
    ).catch(asTransient);
    if (authorization === undefined) return false;
    this.#authorizations.set(host.base, authorization);
    return true;
  }

  /** Credentials that name a server are for that server alone; others for each host that the node's administrator named for the reference. */
  #credentialsFor(host: RegistryHost): Credentials | undefined {
    const { credentials } = this.#options;
    if (credentials?.serverAddress === undefined || credentials.serverAddress === "") return credentials;
    const named = URL.parse(
      /^https?:\/\//.test(credentials.serverAddress)
        ? credentials.serverAddress
        : `https://${credentials.serverAddress}`,
    )?.host;
    const asked = new URL(host.base).host;
    const dockerHub = named === "index.docker.io" || named === "docker.io";
    return named === asked || (dockerHub && asked === "registry-1.docker.io") ? credentials : undefined;
  }

  async #refusal(response: HttpResponse, what: string): Promise<Error> {
    const { status } = response;
    const url = printableUrl(response.url);
    const body = await readBody(response, ERROR_BODY_MAX, "the registry's error", this.#options.signal).catch(
      (error: unknown) => {
        if (this.#options.signal?.aborted === true) throw error;
        return Buffer.alloc(0);
      },
    );
    const detail = detailOf(body);
    if (isTransientStatus(status)) {
      const code = status === 429 ? "RateLimited" : "Unavailable";
      const error = new ImageError(
        code,
        `${what}: ${url} answered ${status}${status === 429 ? " (too many requests)" : ""}${detail}`,
        { status, url },
      );
      return new Transient(error, parseRetryAfter(response.headers["retry-after"]));
    }
    if (status === 404)
      return new ImageError("NotFound", `not found: ${what} (${url} answered 404${detail})`, { status, url });
    if (status === 401 || status === 403) {
      const advice =
        this.#options.credentials === undefined ? "may need a login" : "the credentials given may not pull it";
      return new ImageError(
        "Unauthorized",
        `pull access denied or no such repository: ${this.#name} (${url} answered ${status}${detail}); ${advice}`,
        { status, url },
      );
    }
    if (status === 400 && body.includes("HTTP request to an HTTPS server")) {
      return new ImageError("RegistryError", `${what}: ${url} speaks TLS: name it with https:// in hosts.toml`, {
        status,
        url,
      });
    }
    return new ImageError("RegistryError", `${what}: ${url} answered ${status}${detail}`, { status, url });
  }
}

function checkedManifest(
  bytes: Buffer,
  response: HttpResponse,
  digest: string | undefined,
  what: string,
): FetchedManifest {
  const header = response.headers["docker-content-digest"];
  const told = Array.isArray(header) ? header[0] : header;
  const claimed = digest ?? (told !== undefined && isDigest(told) ? told : undefined);
  const algorithm = claimed === undefined ? "sha256" : parseDigest(claimed).algorithm;
  const actual = digestOf(bytes, algorithm);
  if (claimed !== undefined && claimed !== actual) throw mismatch(`manifest ${what}`, claimed, actual);
  return { digest: actual, mediaType: mediaTypeOf(bytes, response, what), bytes };
}

/** What the document says it is, else the header, else what it looks like. */
function mediaTypeOf(bytes: Buffer, response: HttpResponse, what: string): string {
  let document: { mediaType?: unknown; manifests?: unknown; schemaVersion?: unknown };
  try {
    document = (JSON.parse(bytes.toString("utf8")) ?? {}) as typeof document;
  } catch (error) {
    throw new ImageError("InvalidImage", `manifest ${what} is no JSON`, { cause: error });
  }
  if (typeof document.mediaType === "string" && document.mediaType !== "") return document.mediaType;
  const header = response.headers["content-type"]?.split(";")[0]?.trim();
  if (header !== undefined && header.startsWith("application/vnd.")) return header;
  return Array.isArray(document.manifests) ? image.MEDIA.ociIndex : image.MEDIA.ociManifest;
}

function mismatch(what: string, wanted: string, got: string): ImageError {
  return new ImageError("DigestMismatch", `${what}: the registry sent content with digest ${got} instead of ${wanted}`);
}

/** Unavailability passes; all else is final. */
function asTransient(error: unknown): never {
  throw error instanceof ImageError && error.code === "Unavailable" ? new Transient(error) : error;
}

function rangeStart(response: HttpResponse): number {
  return Number(/^bytes (\d+)-/.exec(response.headers["content-range"] ?? "")?.[1] ?? Number.NaN);
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
