/**
 * Reads, inflates and hashes gzip layers and does nothing else, which no unpacking can be faster than: prints the milliseconds
 * that it takes, without those of this program's start.
 *
 *   node floor.ts LAYER…
 */
import { createHash } from "node:crypto";
import { createReadStream, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { createGunzip } from "node:zlib";
import { run } from "./process.ts";

const CHUNK = 256 << 10;
/** Inflating in a thread of its own, as far ahead of hashing as berth's. */
const AHEAD = { chunkSize: CHUNK, readableObjectMode: true, readableHighWaterMark: 4, writableHighWaterMark: CHUNK };

/** `single`: with all of it on one processor, one after the other; else as parallel as berth does it. */
export async function floor(layers: readonly string[], single: boolean): Promise<number> {
  const program = [process.execPath, fileURLToPath(import.meta.url), ...layers];
  const [, processor = "0"] = /^Cpus_allowed_list:\s+(\d+)/m.exec(readFileSync("/proc/self/status", "utf8")) ?? [];
  return Number(await run(single ? ["taskset", "--cpu-list", processor, ...program] : program));
}

async function pass(layer: string): Promise<void> {
  const [compressed, plain] = [createHash("sha256"), createHash("sha256")];
  const source = createReadStream(layer, { highWaterMark: CHUNK });
  source.on("data", (chunk) => compressed.update(chunk));
  for await (const chunk of source.pipe(createGunzip(AHEAD))) plain.update(chunk as Buffer);
  compressed.digest();
  plain.digest();
}

if (import.meta.main) {
  const before = performance.now();
  for (const layer of process.argv.slice(2)) await pass(layer);
  console.log(performance.now() - before);
}
