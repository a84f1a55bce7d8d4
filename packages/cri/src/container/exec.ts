/** Further processes in a running container: ExecSync here, streams in streaming/. */
import { create } from "@bufbuild/protobuf";
import { cri } from "@berth/spec";
import { status } from "@grpc/grpc-js";
import type { CriContext } from "../context.ts";
import { CriError, invalid } from "../errors.ts";
import { kindOf } from "../runtimes/find.ts";
import type { ExecCall } from "../runtimes/kind.ts";
import { type Running, runningContainer } from "./running.ts";

/** What the CRI allows of each stream (api.proto, ExecSyncResponse). */
const OUTPUT_LIMIT = 16 << 20;

export async function execSync(
  context: CriContext,
  request: cri.ExecSyncRequest,
  signal: AbortSignal,
): Promise<cri.ExecSyncResponse> {
  if (request.cmd.length === 0) throw invalid("cmd: must not be empty");
  if (request.timeout < 0n) throw invalid(`timeout: ${request.timeout} is negative; 0 means none`);
  const running = await runningContainer(context, request.containerId);
  await using call = await execCall(context, running, { cmd: request.cmd, terminal: false });
  const result = await call.told(
    running.link.execSync(
      { plan: call.plan, limit: OUTPUT_LIMIT, drainMs: context.config.execDrainMs },
      { signal, timeoutMs: Number(request.timeout) * 1000 },
    ),
  );
  if (result.timedOut) {
    throw new CriError(
      status.DEADLINE_EXCEEDED,
      `command ${JSON.stringify(request.cmd)} timed out: timeout ${request.timeout}s exceeded`,
    );
  }
  return create(cri.ExecSyncResponseSchema, { stdout: result.stdout, stderr: result.stderr, exitCode: result.code });
}

export interface ExecCommand {
  readonly cmd: readonly string[];
  readonly terminal: boolean;
}

/** A further process by whatever made the container. */
export async function execCall(
  context: CriContext,
  { container, spec }: Running,
  { cmd, terminal }: ExecCommand,
): Promise<ExecCall> {
  const { record } = container;
  const own = spec.process;
  if (!own) throw invalid(`container "${record.id}" has no process in its configuration`);
  const env =
    terminal && !own.env?.some((entry) => entry.startsWith("TERM=")) ? [...(own.env ?? []), "TERM=xterm"] : own.env;
  const process = { ...own, args: [...cmd], terminal, ...(env && { env }) };
  return await kindOf(context, record).exec(context, container, spec, process);
}
