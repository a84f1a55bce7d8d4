/** What CRIU says of a failure: in its logs, as its answers have no words. */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { OrderError } from "@berth/kernel";
import { DUMP_LOG } from "./dump.ts";
import { RESTORE_LOG } from "./restore.ts";

/** Of a failure of a plan with CRIU in it: with the first error of its log in `work`. Undefined: it is not CRIU that failed. */
export async function criuWords(error: unknown, work: string): Promise<string | undefined> {
  if (!(error instanceof OrderError) || error.orderName?.startsWith("criu") !== true || error.code === "ETIMEDOUT")
    return undefined;
  const first = error.detail.includes("Error") ? undefined : await firstError(work);
  return `${error.detail}${first === undefined ? "" : `: ${first}`}`;
}

async function firstError(work: string): Promise<string | undefined> {
  for (const name of [DUMP_LOG, RESTORE_LOG]) {
    const text = await readFile(join(work, name), "utf8").catch((error: NodeJS.ErrnoException) => {
      if (error.code === "ENOENT") return "";
      throw error;
    });
    const line = text.split("\n").find((one) => one.includes("Error"));
    if (line !== undefined) return line.replace(/^\([\d.]+\)\s*(?:\d+:\s*)?/, "");
  }
  return undefined;
}
