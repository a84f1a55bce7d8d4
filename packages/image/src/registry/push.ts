/** Sending to a repository: blobs and manifests (OCI distribution specification 1.1, "Push"). */
import { digestOf, type image, type Reference } from "@berth/spec/oci";
import { ImageError } from "../errors.ts";
import { Exchange, type RegistryOptions, type Session } from "./exchange.ts";
import type { RegistryHost } from "./host.ts";
import { type HttpClient, type HttpResponse, printableUrl } from "./http.ts";
import { attachReferrer } from "./referrers.ts";
import { retrying } from "./retry.ts";

export type Pushed = "exists" | "mounted" | "pushed";

export interface BlobSource {
  /** The bytes from `offset` on. Called again where a connection broke. */
  readonly from: (offset: number) => AsyncIterable<Uint8Array>;
  /** A repository of the same registry that has it. */
  readonly mountFrom?: Pick<Reference, "path"> | undefined;
  readonly progress?: (doneBytes: number) => void;
}

/** Of one request, where a proxy in between refuses larger ones (413). */
const CHUNK = 16 << 20;

interface Upload {
  /** Where the next request of this upload goes; registries change it with each answer. */
  location: URL;
  done: number;
}

export class RegistryPusher {
  readonly exchange: Exchange;
  #chunked = false;

  constructor(http: HttpClient, options: RegistryOptions) {
    this.exchange = new Exchange(http, options);
  }

  get session(): Session {
    return this.exchange.session;
  }

  /** Resolves once the registry has the blob, whoever brought it. Throws ImageError. */
  async blob(descriptor: image.Descriptor, source: BlobSource): Promise<Pushed> {
    const host = await this.#host();
    const what = `blob ${this.exchange.name}@${descriptor.digest}`;
    if (await this.#has(host, descriptor, what)) return "exists";
    // What an attempt that broke off has sent is not sent again, where the registry kept it.
    let upload: Upload | undefined;
    return await retrying(this.exchange.retry, this.exchange.options.signal, async () => {
      if (upload !== undefined) upload = await this.#resumed(host, upload, descriptor, what);
      if (upload === undefined) {
        const begun = await this.#begin(host, descriptor, source.mountFrom, what);
        if (begun === "mounted") return begun;
        upload = begun;
      }
      await this.#send(host, upload, descriptor, source, what);
      return "pushed" as const;
    });
  }

  /** Stores a manifest or index by a tag, or by its digest. Resolves to the digest. */
  async manifest(bytes: Uint8Array, mediaType: string, tag: string | undefined): Promise<string> {
    const host = await this.#host();
    const digest = digestOf(bytes);
    const what = `manifest ${this.exchange.name}${tag === undefined ? `@${digest}` : `:${tag}`}`;
    const response = await this.#call(host, {
      method: "PUT",
      path: `manifests/${tag ?? digest}`,
      headers: { "content-type": mediaType },
      body: bytes,
      what,
      accepts: [200, 201, 202],
    });
    const told = response.headers["docker-content-digest"];
    if (typeof told === "string" && told !== digest)
      throw new ImageError("DigestMismatch", `${what}: the registry stored it as ${told} instead of ${digest}`);
    await attachReferrer(this, bytes, mediaType, response.headers["oci-subject"] !== undefined);
    return digest;
  }

  /** The registry to push to: the first that may be, as in containerd; what a mirror gets, the next pull would not find. */
  async #host(): Promise<RegistryHost> {
    return (await this.exchange.hosts("push"))[0] as RegistryHost;
  }

  async #has(host: RegistryHost, { digest }: image.Descriptor, what: string): Promise<boolean> {
    const path = `blobs/${digest}`;
    const response = await this.#call(host, { method: "HEAD", path, what, accepts: [200, 404] });
    return response.status === 200;
  }

  async #begin(
    host: RegistryHost,
    { digest }: image.Descriptor,
    mountFrom: Pick<Reference, "path"> | undefined,
    what: string,
  ): Promise<Upload | "mounted"> {
    const query =
      mountFrom === undefined ? "" : `?${new URLSearchParams({ mount: digest, from: mountFrom.path }).toString()}`;
    const scopes = mountFrom === undefined ? [] : [`repository:${mountFrom.path}:pull`];
    const call = { method: "POST", what, body: "", accepts: [201, 202] } as const;
    const response = await this.exchange
      .send(host, { ...call, path: `blobs/uploads/${query}`, scopes: [this.exchange.scope("pull,push"), ...scopes] })
      .catch(async (error: unknown) => {
        // Who may push here need not be allowed to pull there.
        if (mountFrom === undefined || !(error instanceof ImageError) || error.code !== "Unauthorized") throw error;
        const path = "blobs/uploads/";
        return await this.exchange.send(host, { ...call, path, scopes: [this.exchange.scope("pull,push")] });
      });
    response.body.resume();
    if (response.status === 201) return "mounted";
    return { location: locationOf(response, what), done: 0 };
  }

  async #send(
    host: RegistryHost,
    upload: Upload,
    descriptor: image.Descriptor,
    source: BlobSource,
    what: string,
  ): Promise<void> {
    const { size, digest } = descriptor;
    if (!this.#chunked && upload.done === 0) {
      if (await this.#whole(host, upload, descriptor, source, what)) return;
      this.#chunked = true;
    }
    while (upload.done < size) {
      const end = Math.min(size, upload.done + CHUNK);
      const headers = { "content-range": `${upload.done}-${end - 1}` };
      const body = bodyOf(source, upload.done, end);
      const response = await this.#upload(host, upload, { method: "PATCH", headers, body, what, accepts: [202] });
      upload.location = locationOf(response, what);
      upload.done = end;
    }
    const path = withDigest(upload.location, digest);
    await this.#upload(host, { ...upload, location: path }, { method: "PUT", body: "", what, accepts: [201, 204] });
  }

  /** In one request. False: it is too large for what is in between. */
  async #whole(
    host: RegistryHost,
    upload: Upload,
    { size, digest }: image.Descriptor,
    source: BlobSource,
    what: string,
  ): Promise<boolean> {
    const response = await this.#upload(
      host,
      { ...upload, location: withDigest(upload.location, digest) },
      { method: "PUT", body: bodyOf(source, 0, size), what, accepts: [201, 204, 413] },
    );
    if (response.status !== 413) return true;
    if (size <= CHUNK) throw await this.exchange.refusal(response, { what });
    response.body.destroy();
    return false;
  }

  /** How far the registry has got, by its own account; undefined: it knows nothing of it any more. */
  async #resumed(
    host: RegistryHost,
    upload: Upload,
    { size }: image.Descriptor,
    what: string,
  ): Promise<Upload | undefined> {
    const call = { method: "GET", path: upload.location, what, accepts: [200, 202, 204, 400, 404, 405, 416] } as const;
    const response = await this.#call(host, call);
    response.body.resume();
    const end = Number(/^(?:bytes=)?0-(\d+)$/.exec(response.headers["range"] ?? "")?.[1] ?? Number.NaN);
    if (response.status > 204 || Number.isNaN(end) || end + 1 > size) return undefined;
    // An upload that has nothing yet says "0-0", as one with a single byte does.
    return { location: locationOf(response, what, upload.location), done: end === 0 ? 0 : end + 1 };
  }

  async #upload(
    host: RegistryHost,
    { location }: Upload,
    call: Omit<Parameters<Exchange["send"]>[1], "path">,
  ): Promise<HttpResponse> {
    const headers = { "content-type": "application/octet-stream", ...call.headers };
    return await this.#call(host, { ...call, headers, path: location });
  }

  async #call(host: RegistryHost, call: Parameters<Exchange["send"]>[1]): Promise<HttpResponse> {
    const { retry, options } = this.exchange;
    const once = async (): Promise<HttpResponse> =>
      await this.exchange.send(host, { scopes: [this.exchange.scope("pull,push")], ...call });
    // A part of an upload is not simply sent again: how far the registry has got must be asked first.
    const response = call.path instanceof URL ? await once() : await retrying(retry, options.signal, once);
    if (response.status < 400) response.body.resume();
    return response;
  }
}

function bodyOf(
  { from, progress }: BlobSource,
  start: number,
  end: number,
): { readonly size: number; readonly stream: () => AsyncIterable<Uint8Array> } {
  async function* stream(): AsyncGenerator<Uint8Array, void, undefined> {
    let at = start;
    for await (const chunk of from(start)) {
      const part = chunk.subarray(0, end - at);
      if (part.length > 0) yield part;
      at += part.length;
      progress?.(at);
      if (at === end) return;
    }
    throw new ImageError("DigestMismatch", `what is to be pushed ends after ${at} bytes instead of ${end}`);
  }
  return { size: end - start, stream };
}

function locationOf(response: HttpResponse, what: string, known?: URL): URL {
  const { location } = response.headers;
  const url = location === undefined ? known : (URL.parse(location, response.url) ?? undefined);
  if (url !== undefined && (url.protocol === "https:" || url.protocol === "http:")) return url;
  throw new ImageError("RegistryError", `${what}: ${printableUrl(response.url)} does not say where to upload to`, {
    url: printableUrl(response.url),
  });
}

function withDigest(location: URL, digest: string): URL {
  const url = new URL(location);
  url.searchParams.set("digest", digest);
  return url;
}
