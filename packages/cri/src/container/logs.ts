/** ReopenContainerLog: after the kubelet has renamed a log file, the monitor opens a new one under the old name. */
import { create } from "@bufbuild/protobuf";
import { cri } from "@berth/spec";
import type { CriContext } from "../context.ts";
import { runningContainer } from "./running.ts";

export async function reopenContainerLog(
  context: CriContext,
  request: cri.ReopenContainerLogRequest,
  signal: AbortSignal,
): Promise<cri.ReopenContainerLogResponse> {
  const { link } = await runningContainer(context, request.containerId);
  await link.reopenLog({ signal });
  return create(cri.ReopenContainerLogResponseSchema, {});
}
