/** Debian's docker-registry on loopback, and images to pull from it. */
import { createHash } from "node:crypto";
import {
  createReadStream,
  mkdirSync,
  openSync,
  readFileSync,
  closeSync,
  rmSync,
  statSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { createServer, type AddressInfo } from "node:net";
import { pipeline } from "node:stream/promises";
import { createGunzip } from "node:zlib";
import { run, type Service, startProcess } from "./process.ts";

export interface Registry {
  readonly host: string;
  readonly service: Service;
}

export interface Layer {
  readonly path: string;
  readonly digest: string;
  readonly diffId: string;
  readonly size: number;
}

export async function startRegistry(work: string): Promise<Registry> {
  const port = await freePort();
  const config = `${work}/registry.yml`;
  writeFileSync(
    config,
    `version: 0.1\nlog:\n  accesslog:\n    disabled: true\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: ${work}/registry\nhttp:\n  addr: 127.0.0.1:${port}\n`,
  );
  const service = startProcess(["docker-registry", "serve", config], `${work}/registry.log`);
  await run([
    "curl",
    "--silent",
    "--fail",
    "--retry",
    "50",
    "--retry-connrefused",
    "--retry-delay",
    "1",
    `http://127.0.0.1:${port}/v2/`,
  ]);
  return { host: `127.0.0.1:${port}`, service };
}

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}

/** Words in a random order that is the same in every run: gzip makes them about 2.6 times smaller. */
export class Text {
  #state: number;

  constructor(seed: number) {
    this.#state = seed;
  }

  next(below: number): number {
    this.#state = (Math.imul(this.#state, 1664525) + 1013904223) >>> 0;
    return Math.floor((this.#state / 2 ** 32) * below);
  }

  bytes(size: number): Buffer {
    const parts: string[] = [];
    for (let length = 0; length < size;) {
      const word = this.next(4) === 0 ? this.next(2 ** 31).toString(36) : `word${this.next(4000)}`;
      parts.push(word);
      length += word.length + 1;
    }
    return Buffer.from(parts.join(" ")).subarray(0, size);
  }
}

/** `files` of `size` bytes on average, in directories of a hundred. */
export function writeFiles(directory: string, files: number, size: number, seed: number): void {
  const text = new Text(seed);
  for (let i = 0; i < files; i++) {
    const parent = `${directory}/usr/share/part${Math.floor(i / 1000)}/dir${Math.floor(i / 100)}`;
    if (i % 100 === 0) mkdirSync(parent, { recursive: true });
    writeFileSync(`${parent}/file-${i}`, text.bytes(text.next(2 * size)));
  }
}

export function writeLarge(path: string, megabytes: number, seed: number): void {
  const text = new Text(seed);
  const pieces = Array.from({ length: 16 }, () => text.bytes(1 << 20));
  const file = openSync(path, "w");
  for (let i = 0; i < megabytes; i++) writeSync(file, pieces[text.next(pieces.length)] as Buffer);
  closeSync(file);
}

/** A gzip layer of what is in `directory`, which goes. */
export async function makeLayer(directory: string): Promise<Layer> {
  const path = `${directory}.tar.gz`;
  await run([
    "sh",
    "-c",
    'tar -C "$1" --sort=name --owner=0 --group=0 --mtime=@1700000000 -c . | gzip -6 >"$2"',
    "sh",
    directory,
    path,
  ]);
  rmSync(directory, { recursive: true });
  const diff = createHash("sha256");
  await pipeline(createReadStream(path), createGunzip(), diff);
  const digest = createHash("sha256");
  await pipeline(createReadStream(path), digest);
  return {
    path,
    digest: `sha256:${digest.digest("hex")}`,
    diffId: `sha256:${diff.digest("hex")}`,
    size: statSync(path).size,
  };
}

/** Resolves to the image's reference. */
export async function push({ host }: Registry, name: string, layers: readonly Layer[]): Promise<string> {
  const config = Buffer.from(
    JSON.stringify({
      os: "linux",
      architecture: process.arch === "x64" ? "amd64" : process.arch,
      config: { Cmd: ["sh"] },
      rootfs: { type: "layers", diff_ids: layers.map(({ diffId }) => diffId) },
    }),
  );
  const configDigest = `sha256:${createHash("sha256").update(config).digest("hex")}`;
  for (const { path, digest } of layers) await upload(host, name, digest, readFileSync(path));
  await upload(host, name, configDigest, config);
  const manifest = JSON.stringify({
    schemaVersion: 2,
    mediaType: "application/vnd.oci.image.manifest.v1+json",
    config: { mediaType: "application/vnd.oci.image.config.v1+json", digest: configDigest, size: config.length },
    layers: layers.map(({ digest, size }) => ({
      mediaType: "application/vnd.oci.image.layer.v1.tar+gzip",
      digest,
      size,
    })),
  });
  await send(
    `http://${host}/v2/${name}/manifests/latest`,
    "PUT",
    Buffer.from(manifest),
    "application/vnd.oci.image.manifest.v1+json",
  );
  return `${host}/${name}:latest`;
}

async function upload(host: string, name: string, digest: string, bytes: Buffer): Promise<void> {
  const begun = await send(`http://${host}/v2/${name}/blobs/uploads/`, "POST");
  const location = new URL(begun.headers.get("location") ?? "", `http://${host}`);
  location.searchParams.set("digest", digest);
  await send(location.href, "PUT", bytes, "application/octet-stream");
}

async function send(url: string, method: string, body?: Buffer, type?: string): Promise<Response> {
  const answer = await fetch(url, {
    method,
    ...(body === undefined ? {} : { body: new Uint8Array(body) }),
    ...(type === undefined ? {} : { headers: { "content-type": type } }),
  });
  if (!answer.ok) throw new Error(`${method} ${url}: ${answer.status} ${await answer.text()}`);
  return answer;
}
