/** The path of a layer, read once: source → digest → blob in the store → inflate → diff id → tar → tree. */
import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { type image, parseDigest } from "@berth/spec/oci";
import { Output } from "../erofs/output.ts";
import { ImageError, toImageError } from "../errors.ts";
import type { RegistryClient } from "../registry/client.ts";
import { applyLayer, type AppliedLayer } from "./apply.ts";
import { ByteReader } from "./byte-reader.ts";
import { hashed, inflate } from "./inflate.ts";
import type { Jobs } from "./jobs.ts";
import { release } from "./relief.ts";
import { TarReader } from "./tar.ts";
import { openTarget } from "./targets.ts";
import type { JobContext } from "./worker.ts";

const CHUNK = 256 * 1024;

export async function unpackLayer(request: Jobs["layer"]["request"], context: JobContext): Promise<AppliedLayer> {
  const { descriptor, diffId } = request;
  const tree = await openTarget(request.target, request.tree);
  const stop = (): void => void tree.abort().catch(() => undefined);
  context.signal.addEventListener("abort", stop, { once: true });
  const client = request.source.kind === "registry" ? context.registry(request.source) : undefined;
  const source = request.source.kind === "registry" ? client?.blob(descriptor) : fileChunks(request.source.path);
  const blob = new BlobStream(descriptor, source as AsyncIterable<Uint8Array>, request.ingest, context);
  try {
    const diff = createHash(parseDigest(diffId).algorithm);
    const reader = new ByteReader(hashed(inflate(blob, release), diff, release));
    const applied = await applyLayer(new TarReader(reader), tree, {
      ...(request.limits === undefined ? {} : { limits: request.limits }),
      ...(request.aliases === undefined ? {} : { aliases: request.aliases }),
    });
    await reader.drain();
    await blob.finish();
    const actual = `${parseDigest(diffId).algorithm}:${diff.digest("hex")}`;
    if (actual !== diffId)
      throw new WrongDiff(
        "DigestMismatch",
        `layer ${descriptor.digest} unpacks to ${actual}, but the image's config says ${diffId}`,
      );
    await tree.end(false);
    return applied;
  } catch (error) {
    await tree.abort().catch(() => undefined);
    throw await blamed(await explain(error, blob, descriptor), client);
  } finally {
    context.signal.removeEventListener("abort", stop);
    await blob.close();
  }
}

/** Data that breaks its format is most often not the data that was asked for: then that is what is told. */
async function explain(error: unknown, blob: BlobStream, descriptor: image.Descriptor): Promise<ImageError> {
  if (!(error instanceof ImageError)) return toImageError(error, `unpack layer ${descriptor.digest}`);
  if (error.code !== "InvalidImage") return error;
  try {
    for await (const _ of blob);
    await blob.finish();
  } catch (other) {
    if (other instanceof ImageError) return other;
    throw other;
  }
  return new ImageError(error.code, `layer ${descriptor.digest}: ${error.message}`, { cause: error });
}

/** Says of content that was not what was asked for who sent it, if another host may have it right. */
async function blamed(error: ImageError, client: RegistryClient | undefined): Promise<ImageError> {
  if (error.code !== "DigestMismatch" || error instanceof WrongDiff || error.host !== undefined) return error;
  return new ImageError(error.code, error.message, { cause: error, host: await client?.blame() });
}

/** The blob is what the manifest says: every host has the same. */
class WrongDiff extends ImageError {}

async function* fileChunks(path: string): AsyncGenerator<Uint8Array, void, undefined> {
  try {
    for await (const chunk of createReadStream(path, { highWaterMark: CHUNK })) yield chunk as Uint8Array;
  } catch (error) {
    throw toImageError(error, `read ${path}`);
  }
}

/**
 * A blob's bytes as they pass: counted, hashed, written to the store's ingest file. It can be iterated again after an
 * iteration that ended early, and goes on there.
 */
class BlobStream implements AsyncIterable<Uint8Array> {
  readonly #descriptor: image.Descriptor;
  readonly #source: AsyncIterator<Uint8Array>;
  readonly #ingest: string | undefined;
  readonly #context: JobContext;
  readonly #hash;
  #file: Output | undefined;
  #size = 0;

  constructor(
    descriptor: image.Descriptor,
    source: AsyncIterable<Uint8Array>,
    ingest: string | undefined,
    context: JobContext,
  ) {
    this.#descriptor = descriptor;
    this.#source = source[Symbol.asyncIterator]();
    this.#ingest = ingest;
    this.#context = context;
    this.#hash = createHash(parseDigest(descriptor.digest).algorithm);
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Uint8Array, void, undefined> {
    for (;;) {
      if (this.#context.signal.aborted) throw this.#context.signal.reason;
      const next = await this.#source.next();
      if (next.done === true) return;
      await this.#pass(next.value);
      yield next.value;
    }
  }

  /** After the last byte. Throws DigestMismatch. */
  async finish(): Promise<void> {
    await this.#stored(async () => await this.#file?.end(undefined, false));
    const { digest, size } = this.#descriptor;
    if (this.#size !== size)
      throw new ImageError(
        "DigestMismatch",
        `blob ${digest} has ${this.#size} bytes instead of the ${size} of its descriptor`,
      );
    const actual = `${parseDigest(digest).algorithm}:${this.#hash.copy().digest("hex")}`;
    if (actual !== digest)
      throw new ImageError("DigestMismatch", `blob ${digest}: the content received has digest ${actual}`);
  }

  async close(): Promise<void> {
    await this.#source.return?.(undefined);
    await this.#file?.close();
  }

  async #pass(chunk: Uint8Array): Promise<void> {
    this.#size += chunk.length;
    if (this.#size > this.#descriptor.size)
      throw new ImageError(
        "DigestMismatch",
        `blob ${this.#descriptor.digest} is longer than the ${this.#descriptor.size} bytes of its descriptor`,
      );
    this.#hash.update(chunk);
    this.#context.progress({ doneBytes: this.#size, totalBytes: this.#descriptor.size });
    if (this.#ingest === undefined) return;
    const ingest = this.#ingest;
    await this.#stored(async () => {
      this.#file ??= await Output.open(ingest, { direct: true });
      await this.#file.write(chunk);
    });
  }

  async #stored(work: () => Promise<void>): Promise<void> {
    try {
      await work();
    } catch (error) {
      throw toImageError(error, `write ${this.#ingest}`);
    }
  }
}

export async function digestOfFile(path: string, digest: string): Promise<string> {
  const { algorithm } = parseDigest(digest);
  const hash = createHash(algorithm);
  for await (const chunk of fileChunks(path)) hash.update(chunk);
  return `${algorithm}:${hash.digest("hex")}`;
}

export async function copyBlob(
  { path, descriptor, ingest }: Jobs["copy"]["request"],
  context: JobContext,
): Promise<Jobs["copy"]["result"]> {
  const blob = new BlobStream(descriptor, fileChunks(path), ingest, context);
  try {
    for await (const _ of blob);
    await blob.finish();
    return { size: descriptor.size };
  } finally {
    await blob.close();
  }
}
