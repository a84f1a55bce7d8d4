/** The thread that waits for XID events: waiting blocks it. */
import { parentPort, workerData } from "node:worker_threads";
import { Nvml } from "../../nvml/library.ts";

const WAIT_MS = 250;
const { library, ended } = workerData as HealthOrders;

export interface HealthOrders {
  readonly library: string;
  /** Not 0: this thread is to end. Ended from outside, in the middle of a call, it would take the process with it. */
  readonly ended: Int32Array;
}

/** What is told to the plugin. */
export type HealthMessage =
  | { readonly kind: "xid"; readonly event: import("../../nvml/library.ts").XidEvent }
  | { readonly kind: "watching" };

using nvml = new Nvml(library);
using watch = nvml.watchXids(nvml.gpus());
const tell = (message: HealthMessage): void => parentPort?.postMessage(message);
tell({ kind: "watching" });
while (Atomics.load(ended, 0) === 0) {
  const event = watch.next(WAIT_MS);
  if (event) tell({ kind: "xid", event });
}
