/** Takes an image archive apart into files, for import.ts to look at. */
import { createHash } from "node:crypto";
import { open } from "node:fs/promises";
import { join } from "node:path";
import { ImageError, toImageError } from "../errors.ts";
import { DEFAULT_LIMITS } from "./apply.ts";
import { ByteReader } from "./byte-reader.ts";
import { inflate } from "./inflate.ts";
import type { ArchiveMember, Jobs } from "./jobs.ts";
import { components, toName } from "./paths.ts";
import { TarReader } from "./tar.ts";
import type { JobContext } from "./worker.ts";

const MEMBERS_MAX = 100_000;

export async function takeApart(
  { directory, limits = DEFAULT_LIMITS }: Jobs["archive"]["request"],
  context: JobContext,
): Promise<ArchiveMember[]> {
  const reader = new ByteReader(inflate(context.input()));
  const tar = new TarReader(reader);
  const members: ArchiveMember[] = [];
  let total = 0;
  for (let entry = await tar.next(); entry !== undefined; entry = await tar.next()) {
    const parts = components(toName(entry.path));
    const name = parts.join("/");
    if (members.length === MEMBERS_MAX)
      throw new ImageError("LimitExceeded", `the archive has more than ${MEMBERS_MAX} members`);
    if (entry.type === "symlink" || entry.type === "hardlink") {
      const target = toName(entry.link);
      const base = entry.type === "symlink" && !target.startsWith("/") ? parts.slice(0, -1).join("/") : "";
      members.push({ name, path: "", size: 0, digest: "", link: components(`${base}/${target}`).join("/") });
    } else if (entry.type === "file") {
      total += entry.size;
      if (total > limits.bytes)
        throw new ImageError(
          "LimitExceeded",
          `the archive's files are larger than ${limits.bytes} bytes (limit layer.bytes)`,
        );
      const path = join(directory, String(members.length));
      members.push({ name, path, size: entry.size, digest: await store(tar, path) });
      context.progress({ doneBytes: total, totalBytes: 0 });
    }
  }
  await reader.drain();
  return members;
}

async function store(tar: TarReader, path: string): Promise<string> {
  const hash = createHash("sha256");
  try {
    const file = await open(path, "wx", 0o600);
    try {
      for (let piece = await tar.read(); piece !== undefined; piece = await tar.read()) {
        for (const bytes of typeof piece === "number" ? zeros(piece) : [piece]) {
          hash.update(bytes);
          for (let at = 0; at < bytes.length;) at += (await file.write(bytes, at)).bytesWritten;
        }
      }
    } finally {
      await file.close();
    }
  } catch (error) {
    throw toImageError(error, `write ${path}`);
  }
  return `sha256:${hash.digest("hex")}`;
}

function* zeros(length: number): Generator<Uint8Array, void, undefined> {
  const block = new Uint8Array(Math.min(length, 1 << 20));
  for (let left = length; left > 0; left -= block.length) yield block.subarray(0, Math.min(left, block.length));
}
