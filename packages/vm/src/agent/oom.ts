/** Containers that were killed for memory, as the agent tells it: each one's stand-in has a counter on the host that is set then. */
import { readlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { agent } from "@berth/spec/kata";
import { CODE } from "@berth/ttrpc";
import { VmError } from "../errors.ts";
import { standInOom } from "../guest/stand-in.ts";
import { type AgentClient, AgentError } from "./client.ts";

/** Links by container to the directory that is its counter's: what comes from the guest is only ever looked up here. */
export const oomLinks = (machine: string): string => join(machine, "containers");

const EVERY_MS = 50;
const LONGEST_ID = 100;
const IS_ID = /^[A-Za-z0-9][A-Za-z0-9_.-]*$/;

/** Until the client is closed or the agent has gone. `warn` is told what else ends it. */
export async function followOoms(client: AgentClient, machine: string, warn: (message: string) => void): Promise<void> {
  let isWarned = false;
  for (;;) {
    try {
      const { containerId } = await client.call(agent.AgentService.method.getOOMEvent, {});
      if (IS_ID.test(containerId)) await mark(machine, containerId);
      else if (!isWarned) {
        isWarned = true;
        warn(`the guest's agent tells of a kill for memory in ${JSON.stringify(containerId.slice(0, LONGEST_ID))}`);
      }
      // It may tell as often as it likes.
      await sleep(EVERY_MS);
    } catch (error) {
      if (!(error instanceof AgentError) || error.status !== CODE.unavailable)
        return warn(`kills for memory are not told any more: ${(error as Error).message}`);
      if (!(await isThere(client))) return;
    }
  }
}

/** A connection may end without its agent. */
async function isThere(client: AgentClient): Promise<boolean> {
  try {
    await client.check();
    return true;
  } catch (error) {
    if (error instanceof VmError) return false;
    throw error;
  }
}

async function mark(machine: string, id: string): Promise<void> {
  try {
    await writeFile(standInOom(await readlink(join(oomLinks(machine), id))).file, "oom_kill 1\n");
  } catch (error) {
    // It has been released meanwhile.
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
  }
}
