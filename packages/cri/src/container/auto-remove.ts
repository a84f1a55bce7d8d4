/** Pods that remove themselves when their container ends: what `berth run -d --rm` asks for by annotation. */
import type { CriContext } from "../context.ts";
import { deleteSandbox } from "../sandbox/remove.ts";
import type { Container } from "../store/records.ts";

export const AUTO_REMOVE = "dev.berth.auto-remove";

export async function autoRemove(context: CriContext, container: Container): Promise<void> {
  const sandbox = context.sandboxes.find(container.record.sandboxId);
  if (sandbox?.record.config.annotations[AUTO_REMOVE] !== "true") return;
  if (container.record.phase !== "exited") return;
  try {
    await context.locks.with(sandbox.record.id, undefined, () => deleteSandbox(context, sandbox));
  } catch (error) {
    context.log.error({ sandbox: sandbox.record.id, err: error }, "could not remove the pod of an ended container");
  }
}
