/**
 * The NVIDIA runtime for a process that must not wait: NVML and the driver's files are asked in a thread of their own, which starts with
 * the first container that needs it.
 */
import { Worker } from "node:worker_threads";
import type { oci } from "@berth/spec";

export interface ThreadRequest {
  readonly id: number;
  readonly spec: oci.Spec;
  /** The toolkit's config.toml. */
  readonly config: string;
}

export interface ThreadAnswer {
  readonly id: number;
  readonly spec?: oci.Spec;
  readonly error?: string;
  readonly warnings: readonly string[];
}

export interface Modified {
  readonly spec: oci.Spec;
  readonly warnings: readonly string[];
}

interface Waiting {
  readonly resolve: (modified: Modified) => void;
  readonly reject: (error: Error) => void;
}

export class NvidiaThread {
  readonly #waiting = new Map<number, Waiting>();
  #worker: Worker | undefined;
  #nextId = 1;

  /** What berth-nvidia-runtime makes of `spec` at `create`. Rejects with Error, and then nothing was done. */
  modify(spec: oci.Spec, config: string): Promise<Modified> {
    const worker = (this.#worker ??= this.#start());
    const id = this.#nextId++;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject });
      worker.postMessage({ id, spec, config } satisfies ThreadRequest);
    });
  }

  async close(): Promise<void> {
    await this.#worker?.terminate();
  }

  #start(): Worker {
    const worker = new Worker(new URL("./worker.ts", import.meta.url));
    worker.unref();
    worker.on("message", ({ id, spec, error, warnings }: ThreadAnswer) => {
      const waiting = this.#waiting.get(id);
      this.#waiting.delete(id);
      if (spec === undefined) waiting?.reject(new Error(error));
      else waiting?.resolve({ spec, warnings });
    });
    worker.on("error", (error) => this.#fail(worker, error as Error));
    worker.on("exit", (code) => this.#fail(worker, new Error(`the thread of the NVIDIA runtime ended (${code})`)));
    return worker;
  }

  /** The next request starts another. */
  #fail(worker: Worker, error: Error): void {
    if (this.#worker === worker) this.#worker = undefined;
    const waiting = [...this.#waiting.values()];
    this.#waiting.clear();
    for (const { reject } of waiting) reject(error);
  }
}
