/** The end of a container of a shim's, whatever state it is in. */
import { rm } from "node:fs/promises";
import type { TaskService } from "@berth/shim";
import { taskTypes } from "@berth/spec/shim";
import type { CriContext } from "../../context.ts";
import { exists } from "../../presence.ts";
import { removeBundle, shimOf } from "./bundle.ts";
import { shimsOf, unlessGone } from "./shims.ts";
import { deleteByProgram } from "./start.ts";

const SIGKILL = 9;
/** ms. A shim that does not answer is not waited for: its program removes what is left. */
const ANSWER = { timeoutMs: 10_000 };

/** SIGKILL for all of it. False: the shim does not answer. */
export async function killTask(service: TaskService, id: string, execId = ""): Promise<boolean> {
  try {
    await unlessGone(service.call("kill", { id, execId, signal: SIGKILL, all: execId === "" }, ANSWER));
    return true;
  } catch {
    // It may have refused for a process that ended meanwhile: its end is what counts, and is waited for.
    return false;
  }
}

/** Idempotent: also after a creation that failed, and for one whose shim has died. Its cgroup is the caller's. */
export async function endTask(context: CriContext, id: string, bundle: string): Promise<void> {
  if (!(await exists(bundle))) return;
  const shim = await shimOf(bundle);
  if (shim) {
    const service = await shimsOf(context).connect(shim);
    if (!service || !(await deleteTask(context, service, id))) await deleteByProgram(context, shim.path, id, bundle);
    // One that was killed has left it; its program's delete need not know of it.
    if (!service && shim.address.startsWith("/")) await rm(shim.address, { force: true });
  }
  await removeBundle(context, bundle);
}

async function deleteTask(context: CriContext, service: TaskService, id: string): Promise<boolean> {
  try {
    const state = await unlessGone(service.call("state", { id }, ANSWER));
    if (state && state.status !== taskTypes.Status.STOPPED) {
      await killTask(service, id);
      await unlessGone(service.call("wait", { id }, ANSWER));
    }
    if (state) await unlessGone(service.call("delete", { id }, ANSWER));
    // A shim with other containers stays.
    await unlessGone(service.call("shutdown", { id }, ANSWER));
    return true;
  } catch (error) {
    context.log.warn({ container: id, err: error }, "its shim could not delete it; the shim's program is asked to");
    return false;
  }
}
