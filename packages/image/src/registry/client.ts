/**
 * A client of one repository, to the OCI distribution specification 1.1: manifests and blobs by tag and digest from the
 * hosts that hosts.ts names, each digest verified. It lives in a worker; main and workers share what a login brought by
 * passing `session` on.
 */
import { digestOf, formatReference, image, isDigest, parseDigest, verifyDigest } from "@berth/spec/oci";
import { ImageError } from "../errors.ts";
import { asTransient, type Call, Exchange, type RegistryOptions, type Session } from "./exchange.ts";
import { bodyError, type HttpClient, type HttpResponse, printableUrl, readBody } from "./http.ts";
import type { RegistryHost } from "./host.ts";
import { backoff, pause, retrying, Transient } from "./retry.ts";

export type { RegistryOptions, Session } from "./exchange.ts";

/** Bytes of a manifest or index; registries must take 4 MiB (distribution specification, "Pushing Manifests"). */
export const MANIFEST_MAX = 4 << 20;
/** Bytes of a config, which is read whole. */
export const CONFIG_MAX = 16 << 20;
/** A connection that breaks so often is not worth another, however many bytes each one brought. */
const BREAKS_MAX = 100;

const ACCEPT = [
  image.MEDIA.ociIndex,
  image.MEDIA.ociManifest,
  image.MEDIA.dockerIndex,
  image.MEDIA.dockerManifest,
  "*/*",
].join(", ");

export interface FetchedManifest {
  readonly digest: string;
  readonly mediaType: string;
  readonly bytes: Uint8Array;
}

export class RegistryClient {
  readonly exchange: Exchange;
  /** Who has sent something of the blob that was read last, in order. */
  #senders: RegistryHost[] = [];

  constructor(http: HttpClient, options: RegistryOptions) {
    this.exchange = new Exchange(http, options);
  }

  get session(): Session {
    return this.exchange.session;
  }

  /** Asks the registry itself whether it takes the credentials. Throws ImageError. */
  async login(): Promise<undefined> {
    const { exchange } = this;
    const { retry, options } = exchange;
    const { domain } = options.reference;
    const host = (await exchange.hosts("resolve")).at(-1) as RegistryHost;
    const call = { method: "GET", path: "", what: `login to ${domain}`, scopes: [], accepts: [200] } as const;
    try {
      (await retrying(retry, options.signal, async () => await exchange.send(host, call))).body.resume();
      return undefined;
    } catch (error) {
      if (!(error instanceof ImageError) || error.code !== "Unauthorized") throw error;
      const advice = "check the user name and password";
      throw new ImageError("Unauthorized", `${domain} does not take this login: ${advice} (${error.message})`, error);
    }
  }

  /** The digest that the reference has now, without its content; undefined where no host says. Throws like `manifest`. */
  async head(): Promise<string | undefined> {
    const { reference } = this.exchange.options;
    const path = `manifests/${reference.digest ?? reference.tag ?? "latest"}`;
    const found = await this.exchange.ask(
      "resolve",
      { method: "HEAD", path, headers: { accept: ACCEPT }, what: formatReference(reference) },
      (response) => {
        response.body.resume();
        return Promise.resolve(response.headers["docker-content-digest"]);
      },
    );
    const digest = Array.isArray(found) ? found[0] : found;
    if (digest !== undefined && reference.digest !== undefined && digest !== reference.digest)
      throw mismatch(`manifest ${formatReference(reference)}`, reference.digest, digest);
    return digest;
  }

  /** The manifest or index of the reference, or of `digest`. */
  async manifest(digest: string | undefined = this.exchange.options.reference.digest): Promise<FetchedManifest> {
    const { reference, signal } = this.exchange.options;
    const path = `manifests/${digest ?? reference.tag ?? "latest"}`;
    const what = digest === undefined ? formatReference(reference) : `${this.exchange.name}@${digest}`;
    return await this.exchange.ask(
      digest === undefined ? "resolve" : "pull",
      { method: "GET", path, headers: { accept: ACCEPT }, what },
      async (response) => {
        const bytes = await readBody(response, MANIFEST_MAX, `manifest ${what}`, signal).catch(asTransient);
        return checkedManifest(bytes, response, digest, what);
      },
    );
  }

  /** The document that `tag` names in the repository; undefined: there is none. */
  async tagged(tag: string): Promise<FetchedManifest | undefined> {
    const { signal } = this.exchange.options;
    const what = `${this.exchange.name}:${tag}`;
    try {
      return await this.exchange.ask(
        "resolve",
        { method: "GET", path: `manifests/${tag}`, headers: { accept: ACCEPT }, what },
        async (response) => {
          const bytes = await readBody(response, MANIFEST_MAX, `manifest ${what}`, signal).catch(asTransient);
          return checkedManifest(bytes, response, undefined, what);
        },
      );
    } catch (error) {
      if (error instanceof ImageError && error.code === "NotFound") return undefined;
      throw error;
    }
  }

  /** A small blob, whole. */
  async small(descriptor: image.Descriptor, limit: number = CONFIG_MAX): Promise<Uint8Array> {
    if (descriptor.size > limit)
      throw new ImageError(
        "LimitExceeded",
        `${this.exchange.name}@${descriptor.digest} says it has ${descriptor.size} bytes (at most ${limit})`,
      );
    for (;;) {
      try {
        return await this.#whole(descriptor);
      } catch (error) {
        if (!(error instanceof ImageError) || error.host === undefined) throw error;
      }
    }
  }

  async #whole(descriptor: image.Descriptor): Promise<Uint8Array> {
    const chunks: Uint8Array[] = [];
    for await (const chunk of this.blob(descriptor)) chunks.push(chunk);
    const bytes = Buffer.concat(chunks);
    if (verifyDigest(descriptor.digest, bytes)) return bytes;
    const what = `blob ${this.exchange.name}@${descriptor.digest}`;
    throw new ImageError("DigestMismatch", `${what}: the registry sent other content`, { host: await this.blame() });
  }

  /**
   * Whose fault it is most likely that the blob read last was not what was asked for: the first host that sent something of
   * it. It is not asked again. Undefined: there is no other to ask.
   */
  async blame(): Promise<string | undefined> {
    const [host] = this.#senders;
    return host !== undefined && (await this.exchange.avoid(host)) ? host.base : undefined;
  }

  /**
   * A blob's bytes from `offset` on, exactly as many as `descriptor.size` says. A connection that breaks is taken up again
   * where it broke, in the end with another host. The caller verifies the digest, as it sees all bytes.
   */
  async *blob(descriptor: image.Descriptor, offset = 0): AsyncGenerator<Uint8Array, void, undefined> {
    parseDigest(descriptor.digest);
    const what = `blob ${this.exchange.name}@${descriptor.digest}`;
    const { retry, options } = this.exchange;
    this.#senders = [];
    let done = offset;
    for (let broken = 0, breaks = 1; ; breaks++) {
      const before = done;
      try {
        for await (const chunk of await this.#open(descriptor, done, what)) {
          done += chunk.length;
          if (done > descriptor.size) throw await this.#tooLong(descriptor, what);
          yield chunk;
        }
        if (done === descriptor.size) return;
        throw new Transient(new ImageError("Unavailable", `${what}: ended after ${done} of ${descriptor.size} bytes`));
      } catch (error) {
        if (!(error instanceof Transient)) throw error;
        broken = done > before ? 1 : broken + 1;
        if (broken >= retry.attempts || breaks >= BREAKS_MAX) {
          const sender = this.#senders.at(-1);
          if (sender === undefined || !(await this.exchange.avoid(sender))) throw error.error;
          [broken, breaks] = [0, 0];
          continue;
        }
        if (done === before) await pause(error.retryAfterMs ?? backoff(retry, broken), options.signal);
      }
    }
  }

  async #tooLong({ size }: image.Descriptor, what: string): Promise<ImageError> {
    const message = `${what}: longer than the ${size} bytes of its descriptor`;
    return new ImageError("DigestMismatch", message, { host: await this.blame() });
  }

  /** The blob's bytes from `offset` on: from the registry, or for a layer that registries need not have from its own URLs. */
  async #open(descriptor: image.Descriptor, offset: number, what: string): Promise<AsyncIterable<Uint8Array>> {
    const headers: Record<string, string> = offset === 0 ? {} : { range: `bytes=${offset}-` };
    const call = { method: "GET", headers, what, accepts: [200, 206, 416] } as const;
    const use = (response: HttpResponse, host?: RegistryHost): Promise<AsyncIterable<Uint8Array>> => {
      const body = this.#body(response, descriptor, offset, what);
      if (host !== undefined) this.#senders.push(host);
      return Promise.resolve(body);
    };
    try {
      return await this.exchange.ask("pull", { ...call, path: `blobs/${descriptor.digest}` }, use);
    } catch (error) {
      const elsewhere = image.isForeignLayerType(descriptor.mediaType) ? (descriptor.urls ?? []) : [];
      if (elsewhere.length === 0 || !(error instanceof ImageError) || error.code !== "NotFound") throw error;
      return await this.#openElsewhere(elsewhere, call, use, error);
    }
  }

  async #openElsewhere<T>(
    urls: readonly string[],
    call: Omit<Call, "path">,
    use: (response: HttpResponse) => Promise<T>,
    absent: ImageError,
  ): Promise<T> {
    const { retry, options } = this.exchange;
    const [host] = await this.exchange.hosts("pull");
    const failures: string[] = [];
    for (const text of urls) {
      const path = URL.parse(text);
      if (path === null || (path.protocol !== "https:" && path.protocol !== "http:")) {
        failures.push(`"${text}" is no http(s) URL`);
        continue;
      }
      try {
        return await retrying(retry, options.signal, async () =>
          use(await this.exchange.send(host as RegistryHost, { ...call, path })),
        );
      } catch (error) {
        if (!(error instanceof ImageError) || error.code === "Canceled" || error.code === "DeadlineExceeded")
          throw error;
        failures.push(error.message);
      }
    }
    throw new ImageError(
      "NotFound",
      `${absent.message}; nor where its descriptor says: ${failures.join("; ")}`,
      absent,
    );
  }

  /** Throws where the answer already says that it is not what was asked for, so that another host is asked. */
  #body(
    response: HttpResponse,
    { size }: image.Descriptor,
    offset: number,
    what: string,
  ): AsyncGenerator<Uint8Array, void, undefined> {
    const { status, headers } = response;
    const url = printableUrl(response.url);
    const start = status === 206 ? rangeStart(response) : 0;
    const length = headers["content-length"];
    let wrong: ImageError | undefined;
    if (status === 416) {
      wrong = new ImageError("DigestMismatch", `${what}: ${url} has no more than ${offset} of its ${size} bytes`);
    } else if (status === 206 && start !== offset) {
      wrong = new ImageError("RegistryError", `${what}: the registry answered another range than was asked for`, {
        url,
      });
    } else if (length !== undefined && start + Number(length) !== size) {
      const told = start + Number(length);
      const verdict = told > size ? "longer" : "shorter";
      wrong = new ImageError(
        "DigestMismatch",
        `${what}: ${url} has ${told} bytes of it, ${verdict} than the ${size} bytes of its descriptor`,
      );
    }
    if (wrong === undefined) return this.#bytes(response, offset - start);
    response.body.destroy();
    throw wrong;
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
      const told = bodyError(error, response.url, this.exchange.options.signal);
      throw told.code === "Unavailable" ? new Transient(told) : told;
    }
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

function rangeStart(response: HttpResponse): number {
  return Number(/^bytes (\d+)-/.exec(response.headers["content-range"] ?? "")?.[1] ?? Number.NaN);
}
