/**
 * Keeps what a stream of chunks takes in memory small. Chunks are outside the heap: a thread makes hundreds of megabytes of
 * them before V8 sees a reason to collect the few small objects that hold them, and each collection that it is driven to
 * costs 5 ms. A chunk that is given back at once costs nothing, and the next one gets its pages without a fault.
 */

/** Less is not worth it. */
const SIZE_MIN = 4096;

/**
 * Gives the memory of a stream's chunk back; it has no bytes afterwards. For who owns it alone (what connections, files and
 * zlib hand out is in nobody's pool), and once nothing reads it any more, no system call and no thread of zlib's either. A
 * window on a buffer frees all of it with its last bytes.
 */
export function release({ buffer, byteOffset, byteLength }: Uint8Array): void {
  if (!(buffer instanceof ArrayBuffer) || buffer.byteLength < SIZE_MIN) return;
  if (byteOffset + byteLength === buffer.byteLength) buffer.transfer(0);
}
