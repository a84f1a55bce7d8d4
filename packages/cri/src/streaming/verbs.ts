/** Exec, Attach and PortForward: each answers with the URL at which its stream waits. */
import { create } from "@bufbuild/protobuf";
import { cri } from "@berth/spec";
import { runningContainer } from "../container/running.ts";
import type { CriContext } from "../context.ts";
import { invalid, precondition } from "../errors.ts";
import type { Wanted } from "./remote.ts";
import type { StreamingServer } from "./server.ts";

export async function exec(
  context: CriContext,
  streaming: StreamingServer,
  request: cri.ExecRequest,
): Promise<cri.ExecResponse> {
  const { cmd, tty, stdin, stdout, stderr } = request;
  if (cmd.length === 0) throw invalid("cmd: must not be empty");
  checkStreams(request);
  const { container } = await runningContainer(context, request.containerId);
  const url = streaming.url({ kind: "exec", containerId: container.record.id, cmd, tty, stdin, stdout, stderr });
  return create(cri.ExecResponseSchema, { url });
}

/** A created container can be attached to before it starts, so that a client misses nothing of its output. */
export function attach(
  context: CriContext,
  streaming: StreamingServer,
  request: cri.AttachRequest,
): Promise<cri.AttachResponse> {
  const { tty, stdin, stdout, stderr } = request;
  checkStreams(request);
  const { record, link } = context.containers.get(request.containerId);
  if (!link) throw precondition(`container "${record.id}" is not running (it is ${record.phase})`);
  const url = streaming.url({ kind: "attach", containerId: record.id, tty, stdin, stdout, stderr });
  return Promise.resolve(create(cri.AttachResponseSchema, { url }));
}

export function portForward(
  context: CriContext,
  streaming: StreamingServer,
  request: cri.PortForwardRequest,
): Promise<cri.PortForwardResponse> {
  const { record } = context.sandboxes.get(request.podSandboxId);
  if (record.phase !== "ready") throw precondition(`pod sandbox "${record.id}" is not ready (it is ${record.phase})`);
  const wrong = request.port.find((port) => port < 1 || port > 65535);
  if (wrong !== undefined) throw invalid(`port: ${wrong} is no TCP port`);
  const url = streaming.url({ kind: "portforward", sandboxId: record.id, ports: request.port });
  return Promise.resolve(create(cri.PortForwardResponseSchema, { url }));
}

function checkStreams({ tty, stdin, stdout, stderr }: Wanted): void {
  if (tty && stderr) throw invalid("stderr: must be false with tty, which has one output");
  if (!stdin && !stdout && !stderr) throw invalid("one of stdin, stdout and stderr must be true");
}
