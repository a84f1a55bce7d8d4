/**
 * Preloaded into a process that is to die (--import): counts the steps that change what is on disk, and kills the process
 * with SIGKILL before the one that BERTH_DIE_AT names. Without it, prints the count at the end. BERTH_DIE_IN: "main" or
 * "worker", whose steps count.
 */
import fs from "node:fs";
import promises from "node:fs/promises";
import { syncBuiltinESMExports } from "node:module";
import { Socket } from "node:net";
import { DatabaseSync } from "node:sqlite";
import { isMainThread } from "node:worker_threads";
import { keepJournal } from "./journal.ts";
import { CHANGES } from "./steps.ts";

type Any = (...args: unknown[]) => unknown;

const at = Number(process.env["BERTH_DIE_AT"] ?? 0);
const counting = isMainThread === (process.env["BERTH_DIE_IN"] !== "worker");
let steps = 0;

function step(): void {
  if (counting && ++steps === at) process.kill(process.pid, "SIGKILL");
}

function count(object: object, name: string, when: (...args: unknown[]) => boolean = () => true): void {
  const holder = object as Record<string, Any>;
  const original = holder[name] as Any;
  holder[name] = function (this: unknown, ...args: unknown[]): unknown {
    if (when(...args)) step();
    return original.apply(this, args);
  };
}

for (const name of CHANGES.promises) count(promises, name);
count(promises, "open", (_, flags) => typeof flags === "string" && flags !== "r");
for (const name of CHANGES.sync) count(fs, name);
count(DatabaseSync.prototype, "exec", (sql) => sql === "COMMIT" || sql === "BEGIN IMMEDIATE");
// What bosun is asked to do.
count(Socket.prototype, "write");
const handle = await promises.open("/dev/null");
const prototype = Object.getPrototypeOf(handle) as object;
await handle.close();
for (const name of CHANGES.handle) count(prototype, name);
if (process.env["BERTH_JOURNAL"] !== undefined) keepJournal(process.env["BERTH_JOURNAL"], prototype);
syncBuiltinESMExports();

if (isMainThread) process.on("exit", () => process.stdout.write(`steps ${steps}\n`));
