/** The thread of thread.ts. */
import { parentPort } from "node:worker_threads";
import { loadConfig } from "../toolkit/config.ts";
import { makerOf } from "./make.ts";
import { modified } from "./modify.ts";
import type { ThreadAnswer, ThreadRequest } from "./thread.ts";

parentPort?.on("message", async ({ id, spec, config: file }: ThreadRequest) => {
  const warnings: string[] = [];
  const log = { debug() {}, info() {}, warn: (message: string) => void warnings.push(message) };
  let answer: ThreadAnswer;
  try {
    const config = loadConfig(file);
    answer = { id, spec: await modified(spec, config, makerOf(config, process.env["PATH"]), log), warnings };
  } catch (error) {
    answer = { id, error: (error as Error).message, warnings };
  }
  parentPort?.postMessage(answer);
});
