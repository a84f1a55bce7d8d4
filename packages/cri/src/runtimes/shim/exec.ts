/** A further process by a shim: told to it by Exec, started and watched by the process that stands for it under the monitor. */
import { randomBytes } from "node:crypto";
import { rm } from "node:fs/promises";
import { fifosIn, packJson, planShimProcess, type TaskService } from "@berth/shim";
import type { oci } from "@berth/spec";
import { CODE, TtrpcError } from "@berth/ttrpc";
import type { CriContext } from "../../context.ts";
import { precondition } from "../../errors.ts";
import type { Container } from "../../store/records.ts";
import type { ExecCall } from "../kind.ts";
import { bundleOf, NAMESPACE, shimOf } from "./bundle.ts";
import { killTask } from "./end.ts";
import { inShimsWords, shimsOf, unlessGone } from "./shims.ts";
import { sized } from "./terminal.ts";
import { inTheShimsWords } from "./words.ts";

const ANSWER = { timeoutMs: 10_000 };

export async function execByShim(
  context: CriContext,
  { record }: Container,
  _spec: oci.Spec,
  process: oci.Process,
): Promise<ExecCall> {
  const { id } = record;
  const bundle = bundleOf(context, record.sandboxId, id);
  const shim = await shimOf(bundle);
  const service = shim && (await shimsOf(context).connect(shim));
  if (!service) throw precondition(`container "${id}": its shim has ended`);
  const execId = randomBytes(16).toString("hex");
  const terminal = process.terminal === true;
  const fifos = fifosIn(`${bundle}/io`, execId, terminal, true);
  const { stdin = "", stdout = "", stderr = "" } = fifos;
  const spec = packJson("Process", sized(process));
  await inShimsWords(
    `container "${id}"`,
    service.call("exec", { id, execId, terminal, stdin, stdout, stderr, spec }, ANSWER),
  );
  return {
    plan: planShimProcess({ shim, namespace: NAMESPACE, id, execId, terminal, fifos, parks: false }),
    told: inTheShimsWords,
    [Symbol.asyncDispose]: async () => {
      await endExec(service, id, execId);
      for (const fifo of Object.values(fifos)) if (fifo !== undefined) await rm(String(fifo), { force: true });
    },
  };
}

/** One that has ended can be deleted; one that runs on has nobody any more who would see its end. */
async function endExec(service: TaskService, id: string, execId: string): Promise<void> {
  try {
    await unlessGone(service.call("delete", { id, execId }, ANSWER));
  } catch (error) {
    if (!(error instanceof TtrpcError) || error.code === CODE.deadlineExceeded) throw error;
    await killTask(service, id, execId);
    await unlessGone(service.call("wait", { id, execId }, ANSWER));
    await unlessGone(service.call("delete", { id, execId }, ANSWER));
  }
}
