/** CheckpointContainer: refused, with the reason, wherever criu cannot do it. */
import type { cri } from "@berth/spec";
import type { CriContext } from "../context.ts";
import { invalid, precondition, unimplemented } from "../errors.ts";
import { runningContainer } from "./running.ts";

/** ms; criu check makes processes and namespaces of its own. */
const CHECK_TIMEOUT = 30_000;
const SEARCHED = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"].join(":");

export async function checkpointContainer(
  context: CriContext,
  request: cri.CheckpointContainerRequest,
  signal: AbortSignal,
): Promise<cri.CheckpointContainerResponse> {
  if (!request.location.startsWith("/")) throw invalid(`location: "${request.location}" is not an absolute path`);
  if (request.timeout < 0n) throw invalid(`timeout: ${request.timeout} is negative; 0 means none`);
  const { container } = await runningContainer(context, request.containerId);
  await checkCriu(context, signal);
  throw unimplemented(
    `container "${container.record.id}": checkpoints of containers that berth runs itself are not supported by this version; use a runtime_handler with a binary that makes them`,
  );
}

async function checkCriu({ hand }: CriContext, signal: AbortSignal): Promise<void> {
  const { status, stdout, stderr } = await hand.spawn(
    { argv: ["/bin/sh", "-c", "command -v criu >/dev/null || exit 127; exec criu check"], env: { PATH: SEARCHED } },
    { signal, timeoutMs: CHECK_TIMEOUT },
  );
  if (status === 0) return;
  if (status === 127) throw precondition("checkpoint needs criu, which is not installed on this node");
  const said = Buffer.concat([stdout, stderr]).toString("utf8").trim().split("\n");
  const reason = said.findLast((line) => line.includes("Error")) ?? said.at(-1) ?? "";
  throw precondition(`checkpoint needs criu, and "criu check" fails on this node: ${reason}`);
}
