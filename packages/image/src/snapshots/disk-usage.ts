/** What writable layers take on disk, measured by bosun: a walk over a container's files must not hold the daemon's loop up. */
import type { Hand, Plan } from "@berth/kernel";
import { toImageError } from "../errors.ts";
import type { Usage } from "../types.ts";

/** Measured at most so often, as containerd's stats_collect_period. */
const FRESH_MS = 10_000;
/** A layer of millions of files is walked for minutes; nobody waits for it but who asked first. */
const TIMEOUT_MS = 600_000;

interface Known {
  readonly usage: Usage;
  readonly at: number;
}

export class DiskUsage {
  readonly #hand: Hand;
  readonly #freshMs: number;
  readonly #known = new Map<string, Known>();
  readonly #running = new Map<string, Promise<Usage>>();
  /** Asked for in this turn of the loop: one plan measures them all. */
  #batch: { directories: string[]; outcome: Promise<Map<string, Usage>> } | undefined;

  constructor(hand: Hand, freshMs = FRESH_MS) {
    this.#hand = hand;
    this.#freshMs = freshMs;
  }

  /** The last measurement; one that is getting old is renewed meanwhile. The first one is waited for. Rejects with ImageError. */
  async of(directory: string): Promise<Usage> {
    const known = this.#known.get(directory);
    if (known === undefined) return await this.#measure(directory);
    if (performance.now() - known.at >= this.#freshMs && !this.#running.has(directory))
      // The old figure stays until a later measurement succeeds; the next call tries again.
      void this.#measure(directory).catch(() => undefined);
    return known.usage;
  }

  last(directory: string): Usage | undefined {
    return this.#known.get(directory)?.usage;
  }

  forget(directory: string): void {
    this.#known.delete(directory);
  }

  #measure(directory: string): Promise<Usage> {
    let running = this.#running.get(directory);
    if (running === undefined) {
      running = this.#join(directory).finally(() => this.#running.delete(directory));
      this.#running.set(directory, running);
    }
    return running;
  }

  async #join(directory: string): Promise<Usage> {
    this.#batch ??= this.#begin();
    this.#batch.directories.push(directory);
    const usage = (await this.#batch.outcome).get(directory);
    if (usage === undefined) throw new Error(`${directory} was not measured`);
    this.#known.set(directory, { usage, at: performance.now() });
    return usage;
  }

  #begin(): { directories: string[]; outcome: Promise<Map<string, Usage>> } {
    const directories: string[] = [];
    const { promise: outcome, resolve } = Promise.withResolvers<Map<string, Usage>>();
    setImmediate(() => {
      this.#batch = undefined;
      resolve(this.#run(directories));
    });
    return { directories, outcome };
  }

  async #run(directories: readonly string[]): Promise<Map<string, Usage>> {
    const plan: Plan = { orders: directories.map((path) => ({ order: "disk_usage", args: { path } })) };
    try {
      const outputs = await this.#hand.run(plan, { timeoutMs: TIMEOUT_MS });
      return new Map(directories.map((directory, index) => [directory, decode(outputs.get(index))]));
    } catch (error) {
      throw toImageError(error, "measure writable layers");
    }
  }
}

/** The order's two u64; nothing for a directory that is gone. */
function decode(output: Uint8Array | undefined): Usage {
  if (output === undefined) return { bytes: 0, inodes: 0 };
  const view = new DataView(output.buffer, output.byteOffset, output.byteLength);
  return { bytes: Number(view.getBigUint64(0, true)), inodes: Number(view.getBigUint64(8, true)) };
}
