/** What a container has changed, as a layer: from its overlay's upper directory, and back into one. */
import { createReadStream, createWriteStream } from "node:fs";
import { pipeline } from "node:stream/promises";
import { ImageError, toImageError } from "../errors.ts";
import { applyLayer } from "./apply.ts";
import { ByteReader } from "./byte-reader.ts";
import { inflate } from "./inflate.ts";
import type { Jobs } from "./jobs.ts";
import { type PaxRecords, paxInteger, parsePax } from "./pax.ts";
import { BLOCK, isZeroBlock, parseHeader } from "./tar-header.ts";
import { END_OF_ARCHIVE, fileHeader, paxHeader } from "./tar-write.ts";
import { TarReader } from "./tar.ts";
import { openTarget } from "./targets.ts";
import type { JobContext } from "./worker.ts";

const XATTR = "SCHILY.xattr.";
const OVERLAY = `${XATTR}trusted.overlay.`;
const OPAQUE = `${OVERLAY}opaque`;
const EXTENSION_MAX = 1 << 20;

export async function writeChanges(
  { source, target }: Jobs["changes"]["request"],
  { signal }: JobContext,
): Promise<undefined> {
  try {
    const reader = new ByteReader(createReadStream(source));
    await pipeline(layerOf(reader), createWriteStream(target, { mode: 0o600 }), { signal });
  } catch (error) {
    throw toImageError(error, `write ${target}`);
  }
}

export async function unpackArchive(
  { path, directory, tree: source, limits }: Jobs["unpack"]["request"],
  { signal }: JobContext,
): Promise<undefined> {
  const tree = await openTarget({ kind: "tree", directory }, source, true);
  const stop = (): void => void tree.abort().catch(() => undefined);
  signal.addEventListener("abort", stop, { once: true });
  try {
    const reader = new ByteReader(inflate(createReadStream(path)));
    await applyLayer(new TarReader(reader), tree, limits === undefined ? {} : { limits });
    await reader.drain();
    await tree.end(false);
  } catch (error) {
    await tree.abort().catch(() => undefined);
    const known = toImageError(error, "unpack");
    throw new ImageError(known.code, `${path}: ${known.message}`, { cause: error });
  } finally {
    signal.removeEventListener("abort", stop);
  }
}

interface Extension {
  readonly bytes: Uint8Array;
  readonly records: PaxRecords;
}

/** The same archive with overlayfs's own marks told as layers tell them (image-spec, "Whiteouts"). */
export async function* layerOf(reader: ByteReader): AsyncGenerator<Uint8Array, void, undefined> {
  let extension: Extension | undefined;
  for (;;) {
    const at = reader.offset;
    const block = Uint8Array.from(await reader.exactly(BLOCK));
    if (block.length < BLOCK || isZeroBlock(block)) break;
    const header = parseHeader(block, at);
    if (header.type === "x") {
      extension = await readExtension(reader, block, header.size, at);
      continue;
    }
    const records = extension?.records ?? [];
    const said = (key: string): Uint8Array | undefined => records.findLast(([name]) => name === key)?.[1];
    const path = said("path") ?? header.path;
    const size = said("size");
    if (header.type === "3" && header.major === 0 && header.minor === 0) {
      yield emptyFile(whiteout(path));
    } else {
      const kept = records.filter(([name]) => !name.startsWith(OVERLAY));
      if (extension !== undefined && kept.length === records.length) yield extension.bytes;
      else if (kept.length > 0) yield paxHeader(kept);
      yield block;
      yield* content(reader, padded(size === undefined ? header.size : paxInteger(size, "size", at)), at);
      if (header.type === "5" && said(OPAQUE)?.[0] === OPAQUE_YES) yield emptyFile(join(path, ".wh..wh..opq"));
    }
    extension = undefined;
  }
  yield END_OF_ARCHIVE;
}

const OPAQUE_YES = "y".charCodeAt(0);
const padded = (size: number): number => Math.ceil(size / BLOCK) * BLOCK;

async function readExtension(reader: ByteReader, block: Uint8Array, size: number, at: number): Promise<Extension> {
  if (size > EXTENSION_MAX)
    throw new ImageError(
      "LimitExceeded",
      `tar: the extended header at byte ${at} is longer than ${EXTENSION_MAX} bytes`,
    );
  const data = Uint8Array.from(await reader.exactly(padded(size)));
  return { bytes: Buffer.concat([block, data]), records: parsePax(data.subarray(0, size), at) };
}

async function* content(reader: ByteReader, size: number, at: number): AsyncGenerator<Uint8Array, void, undefined> {
  for (let left = size; left > 0;) {
    const piece = await reader.some(left);
    if (piece === undefined) throw new ImageError("InvalidImage", `tar: ends within the entry at byte ${at}`);
    left -= piece.length;
    yield piece;
  }
}

/** Names may be any bytes, and longer than ustar's field: they are always told by a pax record. */
function emptyFile(path: Uint8Array): Uint8Array {
  return Buffer.concat([paxHeader([["path", path]]), fileHeader("whiteout", 0)]);
}

const SLASH = 0x2f;

function whiteout(path: Uint8Array): Uint8Array {
  const at = path.lastIndexOf(SLASH) + 1;
  return Buffer.concat([path.subarray(0, at), Buffer.from(".wh."), path.subarray(at)]);
}

function join(directory: Uint8Array, name: string): Uint8Array {
  const slash = directory.at(-1) === SLASH ? "" : "/";
  return Buffer.concat([directory, Buffer.from(`${slash}${name}`)]);
}
