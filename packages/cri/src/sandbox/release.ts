/** Gives back everything a pod holds but its record: used by Stop, by a failed Run, and by recovery. Idempotent. */
import { rm } from "node:fs/promises";
import type { CriContext } from "../context.ts";
import { sandboxDir } from "../context.ts";
import type { Sandbox } from "../store/records.ts";
import { stopPodInit } from "./init.ts";
import { namespaceRemoval, stopMaker } from "./namespaces.ts";
import { attachmentOf } from "./network.ts";

export async function releaseSandbox(context: CriContext, sandbox: Sandbox): Promise<void> {
  await stopPodInit(context, sandbox);
  await stopMaker(context, sandbox.record.id);
  await detachNetwork(context, sandbox);
  await context.hand.run(namespaceRemoval(context, sandbox.record.id));
  await rm(sandboxDir(context, sandbox.record.id), { recursive: true, force: true });
}

/** CNI DEL before the namespace's pin goes, so that plugins still find the interface. */
async function detachNetwork(context: CriContext, sandbox: Sandbox): Promise<void> {
  const { record } = sandbox;
  if (!record.networked || record.netns === undefined) return;
  await context.cni.del(attachmentOf(record, record.netns));
  record.networked = false;
  context.sandboxes.save(sandbox);
}
