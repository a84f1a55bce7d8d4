/** Gives back everything a pod holds but its record: used by Stop, by a failed Run, and by recovery. Idempotent. */
import { rm } from "node:fs/promises";
import type { CriContext } from "../context.ts";
import { sandboxDir } from "../context.ts";
import type { Sandbox } from "../store/records.ts";
import { kindOfPod } from "../runtimes/find.ts";
import { namespaceRemoval, stopMaker } from "./namespaces.ts";
import { attachmentOf } from "./network.ts";
import { usernsOf } from "./userns.ts";

export async function releaseSandbox(context: CriContext, sandbox: Sandbox, signal?: AbortSignal): Promise<void> {
  const { id, config } = sandbox.record;
  await kindOfPod(context, sandbox.record).releasePod(context, sandbox);
  if (usernsOf(config)) await stopMaker(context, id);
  await detachNetwork(context, sandbox, signal);
  try {
    await context.hand.run(namespaceRemoval(context, id));
  } catch (error) {
    // The last order: the init's monitor has written its record into what was being emptied.
    if ((error as { code?: string }).code !== "ENOTEMPTY") throw error;
    await rm(sandboxDir(context, id), { recursive: true, force: true });
  }
}

/** CNI DEL before the namespace's pin goes, so that plugins still find the interface. */
async function detachNetwork(context: CriContext, sandbox: Sandbox, signal?: AbortSignal): Promise<void> {
  const { record } = sandbox;
  if (!record.networked || record.netns === undefined) return;
  await context.cni.del(attachmentOf(record, record.netns), signal ? { signal } : {});
  record.networked = false;
  context.sandboxes.save(sandbox);
}
