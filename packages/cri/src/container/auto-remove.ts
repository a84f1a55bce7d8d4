/** Pods that remove themselves when their container ends: what `berth run -d --rm` asks for by annotation. */
import { rm } from "node:fs/promises";
import { dirname, resolve } from "node:path";
import { type CriContext, logRoot } from "../context.ts";
import { deleteSandbox } from "../sandbox/remove.ts";
import type { Container } from "../store/records.ts";

export const AUTO_REMOVE = "dev.berth.auto-remove";

export async function autoRemove(context: CriContext, container: Container): Promise<void> {
  const sandbox = context.sandboxes.find(container.record.sandboxId);
  if (sandbox?.record.config.annotations[AUTO_REMOVE] !== "true") return;
  if (container.record.phase !== "exited") return;
  try {
    await context.locks.with(sandbox.record.id, undefined, () => deleteSandbox(context, sandbox));
    await removeLogs(context, sandbox.record.config.logDirectory);
  } catch (error) {
    context.log.error({ sandbox: sandbox.record.id, err: error }, "could not remove the pod of an ended container");
  }
}

/** Only a directory right below the one that `berth run` keeps its logs in: any other is its maker's. */
async function removeLogs(context: CriContext, directory: string): Promise<void> {
  if (directory === "" || dirname(resolve(directory)) !== resolve(logRoot(context))) return;
  await rm(directory, { recursive: true, force: true });
}
