/** Sending to a registry: blobs from the store or from another registry, and what names them. */
import { createReadStream } from "node:fs";
import { toImageError } from "../errors.ts";
import type { HttpClient } from "../registry/http.ts";
import { type BlobSource, RegistryPusher } from "../registry/push.ts";
import type { Jobs } from "./jobs.ts";
import type { JobContext } from "./worker.ts";

const CHUNK = 256 * 1024;

export async function pushBlob(
  { target, descriptor, source, mountFrom }: Jobs["pushBlob"]["request"],
  { signal, progress, registry }: JobContext,
  http: HttpClient,
): Promise<Jobs["pushBlob"]["result"]> {
  const pusher = new RegistryPusher(http, { ...target, signal });
  const pull = source.kind === "registry" ? registry(source) : undefined;
  const from: BlobSource["from"] = (offset) =>
    pull === undefined ? fileFrom((source as { path: string }).path, offset) : pull.blob(descriptor, offset);
  const pushed = await pusher.blob(descriptor, {
    from,
    mountFrom: mountFrom === undefined ? undefined : { path: mountFrom },
    progress: (doneBytes) => progress({ doneBytes, totalBytes: descriptor.size }),
  });
  return { pushed, session: pusher.session };
}

export async function pushManifest(
  { target, bytes, mediaType, tag }: Jobs["pushManifest"]["request"],
  { signal }: JobContext,
  http: HttpClient,
): Promise<Jobs["pushManifest"]["result"]> {
  const pusher = new RegistryPusher(http, { ...target, signal });
  return { digest: await pusher.manifest(bytes, mediaType, tag), session: pusher.session };
}

async function* fileFrom(path: string, start: number): AsyncGenerator<Uint8Array, void, undefined> {
  try {
    for await (const chunk of createReadStream(path, { start, highWaterMark: CHUNK })) yield chunk as Uint8Array;
  } catch (error) {
    throw toImageError(error, `read ${path}`);
  }
}
