/** A checkpoint by a shim: its runtime's own, while the container stands still. */
import { packMessage } from "@berth/shim";
import { runcOptions } from "@berth/spec/shim";
import type { DumpRequest } from "../../checkpoint/dump.ts";
import { PROGRAM_TIMEOUT, runProgram } from "../../checkpoint/programs.ts";
import type { CriContext } from "../../context.ts";
import { precondition } from "../../errors.ts";
import { bundleOf, shimOf } from "./bundle.ts";
import { inShimsWords, shimsOf } from "./shims.ts";

export async function dumpByShim(
  context: CriContext,
  { container: { record }, directory, timeoutMs, signal }: DumpRequest,
  images: string,
  archive: readonly string[],
): Promise<void> {
  const { id } = record;
  const shim = await shimOf(bundleOf(context, record.sandboxId, id));
  const service = shim && (await shimsOf(context).connect(shim));
  if (!service) throw precondition(`container "${id}": its shim has ended`);
  const what = `container "${id}"`;
  const options = packMessage(runcOptions.CheckpointOptionsSchema, { imagePath: images, workPath: directory });
  await inShimsWords(what, service.call("pause", { id }, { signal }));
  try {
    const limits = { signal, timeoutMs: timeoutMs || PROGRAM_TIMEOUT };
    await inShimsWords(what, service.call("checkpoint", { id, path: images, options }, limits));
    await runProgram(context, archive, signal);
  } finally {
    await inShimsWords(what, service.call("resume", { id }));
  }
}
