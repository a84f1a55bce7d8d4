/** A registry in this process, which can be told to misbehave. */
import { createHash } from "node:crypto";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { gzipSync } from "node:zlib";
import { image } from "@berth/spec";
import { thisPlatform } from "../../src/pull.ts";

export function digest(bytes: Uint8Array): string {
  return `sha256:${createHash("sha256").update(bytes).digest("hex")}`;
}

export interface BuiltImage {
  readonly manifest: Buffer;
  readonly manifestDigest: string;
  readonly config: Buffer;
  readonly id: string;
  readonly layers: readonly Buffer[];
}

export interface BuildOptions {
  readonly config?: image.ContainerDefaults;
  readonly platform?: image.Platform;
  readonly compress?: (tar: Buffer) => Buffer;
  readonly layerType?: string;
  readonly diffIds?: readonly string[];
}

/** An image of layers given as tar archives. */
export function build(tars: readonly Buffer[], options: BuildOptions = {}): BuiltImage {
  const layers = tars.map((tar) => (options.compress ?? gzipSync)(tar));
  const config = Buffer.from(
    JSON.stringify({
      ...(options.platform ?? thisPlatform()),
      config: options.config ?? { Cmd: ["sh"] },
      rootfs: { type: "layers", diff_ids: options.diffIds ?? tars.map(digest) },
    }),
  );
  const manifest = Buffer.from(
    JSON.stringify({
      schemaVersion: 2,
      mediaType: image.MEDIA.ociManifest,
      config: { mediaType: image.MEDIA.ociConfig, digest: digest(config), size: config.length },
      layers: layers.map((layer) => ({
        mediaType: options.layerType ?? image.MEDIA.ociLayerGzip,
        digest: digest(layer),
        size: layer.length,
      })),
    }),
  );
  return { manifest, manifestDigest: digest(manifest), config, id: digest(config), layers };
}

/** Returns true if it answered the request itself. */
export type Hook = (request: IncomingMessage, response: ServerResponse, url: URL) => boolean | Promise<boolean>;

export class FakeRegistry {
  readonly blobs = new Map<string, Buffer>();
  readonly manifests = new Map<string, { bytes: Buffer; type: string }>();
  /** Under way, by number. */
  readonly uploads = new Map<string, Buffer>();
  /** "METHOD /path" of every request, in order. */
  readonly requests: string[] = [];
  hook: Hook | undefined;
  #server: Server;

  private constructor() {
    this.#server = createServer((request, response) => {
      this.#serve(request, response).catch((error: unknown) => {
        response.destroy(error as Error);
      });
    });
  }

  static async start(): Promise<FakeRegistry> {
    const registry = new FakeRegistry();
    await new Promise<void>((resolve) => registry.#server.listen(0, "127.0.0.1", resolve));
    return registry;
  }

  get host(): string {
    return `127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  push(name: string, tag: string, built: BuiltImage): string {
    this.blobs.set(built.id, built.config);
    for (const layer of built.layers) this.blobs.set(digest(layer), layer);
    this.document(name, tag, built.manifest, image.MEDIA.ociManifest);
    return `${this.host}/${name}:${tag}`;
  }

  document(name: string, tag: string, bytes: Buffer, type: string): void {
    this.manifests.set(`${name}/${tag}`, { bytes, type });
    this.manifests.set(`${name}/${digest(bytes)}`, { bytes, type });
  }

  count(pattern: RegExp): number {
    return this.requests.filter((request) => pattern.test(request)).length;
  }

  async close(): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  async #serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const url = new URL(request.url ?? "/", `http://${this.host}`);
    this.requests.push(`${request.method} ${url.pathname}`);
    if (this.hook !== undefined && (await this.hook(request, response, url))) return;
    if (request.method !== "GET" && request.method !== "HEAD") return await this.#store(request, response, url);
    this.answer(request, response, url);
  }

  async #store(request: IncomingMessage, response: ServerResponse, url: URL): Promise<void> {
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk as Buffer);
    const body = Buffer.concat(chunks);
    const [, name = "", id] = /^\/v2\/(.+)\/blobs\/uploads\/(\d*)$/.exec(url.pathname) ?? [];
    const [, repository = "", tag = ""] = /^\/v2\/(.+)\/manifests\/([^/]+)$/.exec(url.pathname) ?? [];
    if (request.method === "PUT" && repository !== "") {
      this.document(repository, tag, body, request.headers["content-type"] ?? "");
      response.writeHead(201, { "docker-content-digest": digest(body) }).end();
    } else if (request.method === "POST" && name !== "") {
      const mount = url.searchParams.get("mount");
      if (mount !== null && this.blobs.has(mount)) return void response.writeHead(201).end();
      const upload = String(this.uploads.size + 1);
      this.uploads.set(upload, Buffer.alloc(0));
      response.writeHead(202, { location: `/v2/${name}/blobs/uploads/${upload}` }).end();
    } else if (id !== undefined) {
      this.#append(request, response, url, id, body);
    } else response.writeHead(405).end();
  }

  #append(request: IncomingMessage, response: ServerResponse, url: URL, id: string, body: Buffer): void {
    const before = this.uploads.get(id) ?? Buffer.alloc(0);
    const start = Number(/^(\d+)-/.exec(request.headers["content-range"] ?? "")?.[1] ?? before.length);
    if (start !== before.length) return void response.writeHead(416).end();
    const bytes = Buffer.concat([before, body]);
    this.uploads.set(id, bytes);
    const wanted = url.searchParams.get("digest");
    if (request.method === "PATCH")
      return void response.writeHead(202, { location: url.pathname, range: `0-${bytes.length - 1}` }).end();
    if (wanted !== digest(bytes)) return void response.writeHead(400).end('{"errors":[{"code":"DIGEST_INVALID"}]}');
    this.blobs.set(wanted, bytes);
    return void response.writeHead(201).end();
  }

  /** What an honest registry answers. */
  answer(request: IncomingMessage, response: ServerResponse, url: URL): void {
    if (url.pathname === "/v2/") return void response.end("{}");
    const manifest = /^\/v2\/(.+)\/manifests\/([^/]+)$/.exec(url.pathname);
    const blob = /^\/v2\/(.+)\/blobs\/([^/]+)$/.exec(url.pathname);
    const found = manifest === null ? undefined : this.manifests.get(`${manifest[1]}/${manifest[2]}`);
    const upload = this.uploads.get(/\/blobs\/uploads\/(\d+)$/.exec(url.pathname)?.[1] ?? "");
    if (upload !== undefined)
      return void response
        .writeHead(204, { location: url.pathname, range: `0-${Math.max(0, upload.length - 1)}` })
        .end();
    const list = /^\/v2\/(.+)\/tags\/list$/.exec(url.pathname)?.[1];
    if (list !== undefined) {
      const names = [...this.manifests.keys()].filter((name) => name.startsWith(`${list}/`) && !name.includes(":"));
      return void response.end(JSON.stringify({ name: list, tags: names.map((name) => name.slice(list.length + 1)) }));
    }
    const bytes = blob === null ? found?.bytes : this.blobs.get(blob[2] as string);
    if (bytes === undefined) {
      response
        .writeHead(404, { "content-type": "application/json" })
        .end(JSON.stringify({ errors: [{ code: "MANIFEST_UNKNOWN", message: "manifest unknown" }] }));
      return;
    }
    const type = found?.type ?? "application/octet-stream";
    const start = Number(/^bytes=(\d+)-$/.exec(request.headers.range ?? "")?.[1] ?? 0);
    const body = bytes.subarray(start);
    response.writeHead(start > 0 ? 206 : 200, {
      "content-type": type,
      "content-length": body.length,
      "docker-content-digest": digest(bytes),
      ...(start > 0 ? { "content-range": `bytes ${start}-${bytes.length - 1}/${bytes.length}` } : {}),
    });
    response.end(request.method === "HEAD" ? undefined : body);
  }
}
