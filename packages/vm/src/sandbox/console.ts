/** What a guest's kernel said last, for whoever has to find out why it is not there. */
import { existsSync } from "node:fs";
import { open } from "node:fs/promises";
import { consoleLog } from "../hypervisor/machine.ts";
import { programLog } from "./host.ts";

/** A guest can write as much as it likes: no more than the end is looked at. */
const LOOKED_AT = 64 << 10;
const LINES = 3;
const LONGEST = 300;

/** Of a CRI log: time, stream and tag stand before each line. */
export const ENTRY = /^\S+ (stdout|stderr) [FP] /;
/** QEMU's console is its standard output. */
export const IS_CONSOLE = /^\S+ stdout /;

/** For a person. */
export const consolePlace = (machine: string): string =>
  existsSync(consoleLog(machine)) ? consoleLog(machine) : programLog(machine, "hypervisor");

/**
 * Begins with ": "; "" where it said nothing. A panic is told by its own line. The words are a stranger's: none of them is a control
 * character.
 */
export async function consoleWords(machine: string): Promise<string> {
  const lines = (await said(machine))
    .split(/\r?\n/)
    .map((line) => line.replaceAll(/[^\x20-\x7e]/g, "").trimEnd())
    .filter((line) => line !== "");
  const panic = lines.find((line) => /Kernel panic - not syncing/.test(line));
  if (panic !== undefined) return `: the guest's kernel panicked: ${bare(panic)}`;
  const last = lines.slice(-LINES).map(bare);
  return last.length === 0 ? "" : `: its console ended with: ${last.join(" / ")}`;
}

/** The other hypervisors have a file for it. */
async function said(machine: string): Promise<string> {
  if (existsSync(consoleLog(machine))) return await tail(consoleLog(machine));
  const log = programLog(machine, "hypervisor");
  const entries = `${await tail(`${log}.1`)}\n${await tail(log)}`.split("\n");
  return entries
    .filter((entry) => IS_CONSOLE.test(entry))
    .map((entry) => entry.replace(ENTRY, ""))
    .join("\n");
}

/** Without the time since the boot. */
const bare = (line: string): string => line.replace(/^(<\d+>)?\[ *\d+\.\d+\] /, "").slice(0, LONGEST);

/** "": it is not there. */
export async function tail(path: string): Promise<string> {
  try {
    await using file = await open(path);
    const { size } = await file.stat();
    const data = Buffer.alloc(Math.min(size, LOOKED_AT));
    const { bytesRead } = await file.read(data, 0, data.length, size - data.length);
    return data.toString("latin1", 0, bytesRead);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return "";
    throw error;
  }
}
