/** GPUs of NVIDIA's for containers of a handler with NvidiaRuntime: what its runtime does, with no process for it. */
import { status } from "@grpc/grpc-js";
import type { NvidiaThread } from "@berth/gpu/runtime";
import type { oci } from "@berth/spec";
import { CriError } from "../errors.ts";
import type { RuntimeHandler } from "../handlers.ts";
import type { Log } from "../log.ts";

/** Loaded with the first container that may ask for one: most nodes have no GPU. */
export class NvidiaGpus {
  readonly #log: Log;
  #thread: Promise<NvidiaThread> | undefined;

  constructor(log: Log) {
    this.#log = log;
  }

  /** Throws CriError; then nothing was injected. */
  async inject({ name, options }: RuntimeHandler, spec: oci.Spec): Promise<oci.Spec> {
    if (options.nvidia === undefined) return spec;
    this.#thread ??= import("@berth/gpu/runtime").then((gpu) => new gpu.NvidiaThread());
    const thread = await this.#thread;
    try {
      const { spec: modified, warnings } = await thread.modify(spec, options.nvidia);
      for (const warning of warnings) this.#log.warn({ handler: name }, warning);
      return modified;
    } catch (error) {
      const { message } = error as Error;
      throw new CriError(status.FAILED_PRECONDITION, `runtime_handler "${name}": ${message}`, { cause: error });
    }
  }

  async close(): Promise<void> {
    await (await this.#thread)?.close();
  }
}
