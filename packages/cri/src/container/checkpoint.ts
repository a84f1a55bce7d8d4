/** CheckpointContainer: a running container's state into an archive, as the kubelet's checkpoint API asks for it. It runs on. */
import { randomBytes } from "node:crypto";
import { mkdir, open, rename, rm } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { create } from "@bufbuild/protobuf";
import { cri } from "@berth/spec";
import type { CriContext } from "../context.ts";
import { invalid, precondition, unimplemented } from "../errors.ts";
import { withProgress } from "../progress.ts";
import { checkpointsDir } from "../checkpoint/place.ts";
import { kindOf } from "../runtimes/find.ts";
import { runningContainer } from "./running.ts";

const MS_IN_SECOND = 1000n;

export async function checkpointContainer(
  context: CriContext,
  request: cri.CheckpointContainerRequest,
  signal: AbortSignal,
): Promise<cri.CheckpointContainerResponse> {
  const { location } = request;
  if (!location.startsWith("/")) throw invalid(`location: "${location}" is not an absolute path`);
  if (request.timeout < 0n) throw invalid(`timeout: ${request.timeout} is negative; 0 means none`);
  if (!context.config.enableCriu)
    throw precondition("checkpoints are disabled on this node (enable_criu in berthd's configuration)");
  const timeoutMs = Number(request.timeout * MS_IN_SECOND);
  const { record } = (await runningContainer(context, request.containerId)).container;
  const { checkCriu, findProgram, runProgram } = await import("../checkpoint/programs.ts");
  const { dump } = await import("../checkpoint/dump.ts");
  const { log, onStep, telemetry } = context;
  const timed = { telemetry, pod: record.sandboxId, container: record.id };
  const options = { operation: "CheckpointContainer", signal, log, onStep, timed };
  await context.locks.with(record.id, signal, () =>
    withProgress(options, async (progress) => {
      const { container, spec } = await runningContainer(context, request.containerId);
      const { noDump } = kindOf(context, container.record);
      if (noDump !== undefined) throw unimplemented(noDump);
      progress.step("ask criu whether it can work here");
      await checkCriu(context, signal);
      const directory = join(checkpointsDir(context), `${record.id}-${randomBytes(6).toString("hex")}`);
      const archive = join(dirname(location), `.${basename(location)}.${randomBytes(6).toString("hex")}`);
      try {
        progress.step("dump the container");
        await mkdir(directory, { recursive: true, mode: 0o700 });
        await dump(context, { container, spec, directory, timeoutMs, signal });
        progress.step("write the archive");
        await (await open(archive, "wx", 0o600)).close();
        await runProgram(context, [await findProgram("tar"), "-C", directory, "-cf", archive, "."], signal);
        await rename(archive, location);
      } finally {
        await rm(archive, { force: true });
        await rm(directory, { recursive: true, force: true });
      }
    }),
  );
  return create(cri.CheckpointContainerResponseSchema, {});
}
