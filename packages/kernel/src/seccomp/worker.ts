/** The thread that makes one filter and ends: the daemon's loop never waits for libseccomp. */
import { parentPort, workerData } from "node:worker_threads";
import type { BuiltFilter } from "./build.ts";
import { SeccompError } from "./constants.ts";
import { findFilter, type FilterRequest } from "./find.ts";

export type WorkerOutput =
  | { readonly built: BuiltFilter }
  | { readonly error: { readonly field?: string; readonly message: string } };

function answer(): WorkerOutput {
  try {
    return { built: findFilter(workerData as FilterRequest) };
  } catch (error) {
    if (error instanceof SeccompError) return { error: { field: error.field, message: error.message } };
    return { error: { message: error instanceof Error ? error.message : String(error) } };
  }
}

parentPort?.postMessage(answer());
