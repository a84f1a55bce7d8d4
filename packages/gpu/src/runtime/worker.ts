/** The thread of thread.ts. */
import { parentPort } from "node:worker_threads";
import { loadConfig } from "../toolkit/config.ts";
import { makerOf } from "./make.ts";
import { modified } from "./modify.ts";
import type { ThreadAnswer, ThreadRequest } from "./thread.ts";

parentPort?.on("message", (request: ThreadRequest) => {
  void answerTo(request).then((answer) => parentPort?.postMessage(answer));
});

async function answerTo({ id, spec, config: file }: ThreadRequest): Promise<ThreadAnswer> {
  const warnings: string[] = [];
  const log = { debug() {}, info() {}, warn: (message: string) => void warnings.push(message) };
  try {
    const config = loadConfig(file);
    return { id, spec: await modified(spec, config, makerOf(config, process.env["PATH"]), log), warnings };
  } catch (error) {
    return { id, error: (error as Error).message, warnings };
  }
}
