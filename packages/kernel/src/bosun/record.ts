/** The record that a monitor leaves in its directory: what is known of a container when nobody is there to answer. */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import type { MonitorState } from "./hand.ts";

export interface MonitorRecord extends MonitorState {
  readonly monitorPid: number;
}

const PHASES = ["creating", "created", "running", "exited"] as const;
const VERSION = "1";

/** Undefined where there is no record (yet). Throws Error on one that cannot be understood. */
export async function readRecord(directory: string): Promise<MonitorRecord | undefined> {
  const path = join(directory, "record");
  const text = await readFile(path, "utf8").catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT" || error.code === "ENOTDIR") return undefined;
    throw error;
  });
  return text === undefined ? undefined : parseRecord(text, path);
}

/** `key value` lines; `path` is for errors. */
export function parseRecord(text: string, path: string): MonitorRecord {
  const values = new Map(
    text
      .split("\n")
      .filter((line) => line !== "")
      .map((line): [string, string] => {
        const space = line.indexOf(" ");
        return [line.slice(0, space), line.slice(space + 1)];
      }),
  );
  const value = (key: string): string => {
    const found = values.get(key);
    if (found === undefined) throw new Error(`${path}: no ${key}`);
    return found;
  };
  const big = (key: string): bigint => {
    const found = value(key);
    if (!/^\d+$/.test(found)) throw new Error(`${path}: ${key} ${JSON.stringify(found)} is not a number`);
    return BigInt(found);
  };
  if (value("version") !== VERSION)
    throw new Error(`${path}: version ${value("version")}; this berth reads ${VERSION}`);
  const phase = PHASES.find((name) => name === value("phase"));
  if (phase === undefined) throw new Error(`${path}: phase ${JSON.stringify(value("phase"))} is unknown`);
  return {
    phase,
    monitorPid: Number(big("monitor_pid")),
    pid: Number(big("pid")),
    pidStart: big("pid_start"),
    createdAt: big("created_at"),
    startedAt: big("started_at"),
    finishedAt: big("finished_at"),
    code: Number(big("code")),
    signal: Number(big("signal")),
    oom: big("oom") !== 0n,
    lostLogBytes: big("lost"),
  };
}
