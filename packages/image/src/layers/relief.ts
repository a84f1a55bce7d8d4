/**
 * Keeps what a stream of chunks takes in memory small. Chunks are outside the heap: a thread makes hundreds of megabytes of
 * them before V8 sees a reason to collect the few small objects that hold them.
 */
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";

/** Bytes of chunks between collections, each of which takes some 0.2 ms. */
const INTERVAL = 8 << 20;

setFlagsFromString("--expose-gc");
const collect = runInNewContext("gc") as (options: { type: "minor" }) => void;
let passed = 0;

/** Say that so many bytes of chunks were used up. */
export function used(bytes: number): void {
  passed += bytes;
  if (passed < INTERVAL) return;
  passed = 0;
  collect({ type: "minor" });
}
