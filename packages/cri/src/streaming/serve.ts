/** What a streaming URL does once opened: an exec or an attach, relayed between the client's channels and the monitor's streams. */
import { STREAM, type MonitorLink } from "@berth/kernel";
import { withExecPlan } from "../container/exec.ts";
import { runningContainer } from "../container/running.ts";
import type { CriContext } from "../context.ts";
import { precondition } from "../errors.ts";
import { type Channels, NonZeroExit } from "./channels.ts";
import type { StreamRequest } from "./server.ts";

const SIGKILL = 9;

export async function serveStream(
  context: CriContext,
  request: StreamRequest,
): Promise<(channels: Channels) => Promise<void>> {
  if (request.kind === "exec") return (channels) => serveExec(context, request, channels);
  const { record, link } = context.containers.get(request.containerId);
  if (!link) throw precondition(`container "${record.id}" is not running (it is ${record.phase})`);
  const wanted = { ...request, tty: record.config.tty, stdin: request.stdin && record.config.stdin };
  // Before the client learns that it is attached, for it may start the container at once.
  const sockets = await openSockets(link, 0, wanted);
  return (channels) => pump(link, 0, wanted, sockets, channels);
}

async function serveExec(context: CriContext, request: StreamRequest, channels: Channels): Promise<void> {
  const running = await runningContainer(context, request.containerId);
  const { link } = running;
  const terminal = request.tty ? { rows: 24, columns: 80 } : undefined;
  const { session } = await withExecPlan(context, running, { cmd: request.cmd, terminal: request.tty }, (plan) =>
    link.exec({ plan, terminal, streams: streamsOf(request) }),
  );
  const ended = new AbortController();
  // A client that goes away takes its command with it, as with containerd.
  void channels.closed.then(() => (ended.signal.aborted ? undefined : link.kill(session, SIGKILL)));
  const exited = link.wait(session);
  await relay(link, session, request, channels);
  const { code } = await exited;
  ended.abort();
  if (code !== 0) throw new NonZeroExit(code);
}

const streamsOf = ({ stdin, stdout, stderr, tty }: StreamRequest): number =>
  (stdin ? STREAM.stdin : 0) | (stdout ? STREAM.stdout : 0) | (stderr && !tty ? STREAM.stderr : 0);

const openSockets = (link: MonitorLink, session: number, { tty, stdin, stdout, stderr }: StreamRequest) => {
  const open = (stream: number) => link.attach(session, stream);
  return Promise.all([
    stdin ? open(STREAM.stdin) : undefined,
    stdout || tty ? open(STREAM.stdout) : undefined,
    stderr && !tty ? open(STREAM.stderr) : undefined,
  ]);
};

async function relay(link: MonitorLink, session: number, request: StreamRequest, channels: Channels): Promise<void> {
  await pump(link, session, request, await openSockets(link, session, request), channels);
}

/** Until the session's outputs have ended, or the client has gone. */
async function pump(
  link: MonitorLink,
  session: number,
  { tty }: StreamRequest,
  [input, out, err]: Awaited<ReturnType<typeof openSockets>>,
  channels: Channels,
): Promise<void> {
  if (tty) channels.onResize((rows, columns) => void link.resize(session, rows, columns));
  if (input) channels.connectStdin(input);
  const outputs = Promise.all([out && channels.relay(out, "stdout"), err && channels.relay(err, "stderr")]);
  await Promise.race([outputs, channels.closed]);
  for (const socket of [input, out, err]) socket?.destroy();
}
