/** Memory that files are written from: whole pages, as O_DIRECT wants them, used again and again. */

/** Bytes of one block. */
export const BLOCK_SIZE = 512 << 10;
/** Blocks that are kept for the next file: what the files of two layers need. */
const KEPT = 8;
/** ms after which those that nobody has asked for go back to the system. */
const KEPT_MS = 10_000;
/** WebAssembly counts memory in pages of so many bytes. It is the one memory here that starts at a page's start. */
const WASM_PAGE = 64 << 10;

declare const WebAssembly: {
  readonly Memory: new (size: { readonly initial: number; readonly maximum: number }) => {
    readonly buffer: ArrayBuffer;
  };
};

const free: Uint8Array<ArrayBuffer>[] = [];
let letGo: NodeJS.Timeout | undefined;

/** A block with whatever was in it; it is the caller's until `giveBlock`. */
export function takeBlock(): Uint8Array<ArrayBuffer> {
  return free.pop() ?? newBlock();
}

export function giveBlock(block: Uint8Array<ArrayBuffer>): void {
  if (free.length < KEPT) free.push(block);
  letGo = letGo?.refresh() ?? setTimeout(() => (free.length = 0), KEPT_MS).unref();
}

function newBlock(): Uint8Array<ArrayBuffer> {
  const pages = BLOCK_SIZE / WASM_PAGE;
  return new Uint8Array(new WebAssembly.Memory({ initial: pages, maximum: pages }).buffer);
}
