/** What a streaming URL does once opened: an exec or an attach, relayed between the client's channels and the monitor's streams. */
import { STREAM, type MonitorLink } from "@berth/kernel";
import { execPlan } from "../container/exec.ts";
import { runningContainer } from "../container/running.ts";
import type { CriContext } from "../context.ts";
import { precondition } from "../errors.ts";
import { type Channels, NonZeroExit } from "./channels.ts";
import type { StreamRequest } from "./server.ts";

const SIGKILL = 9;

export async function serveStream(context: CriContext, request: StreamRequest, channels: Channels): Promise<void> {
  await (request.kind === "exec" ? serveExec(context, request, channels) : serveAttach(context, request, channels));
}

async function serveExec(context: CriContext, request: StreamRequest, channels: Channels): Promise<void> {
  const running = await runningContainer(context, request.containerId);
  const { link } = running;
  const plan = await execPlan(context, running, request.cmd, request.tty);
  const terminal = request.tty ? { rows: 24, columns: 80 } : undefined;
  const { session } = await link.exec({ plan, terminal, streams: streamsOf(request) });
  const ended = new AbortController();
  // A client that goes away takes its command with it, as with containerd.
  void channels.closed.then(() => (ended.signal.aborted ? undefined : link.kill(session, SIGKILL)));
  const exited = link.wait(session);
  await relay(link, session, request, channels);
  const { code } = await exited;
  ended.abort();
  if (code !== 0) throw new NonZeroExit(code);
}

async function serveAttach(context: CriContext, request: StreamRequest, channels: Channels): Promise<void> {
  const { record, link } = context.containers.get(request.containerId);
  if (!link) throw precondition(`container "${record.id}" is not running (it is ${record.phase})`);
  await relay(link, 0, { ...request, tty: record.config.tty, stdin: request.stdin && record.config.stdin }, channels);
}

const streamsOf = ({ stdin, stdout, stderr, tty }: StreamRequest): number =>
  (stdin ? STREAM.stdin : 0) | (stdout ? STREAM.stdout : 0) | (stderr && !tty ? STREAM.stderr : 0);

/** Until the session's outputs have ended, or the client has gone. */
async function relay(link: MonitorLink, session: number, request: StreamRequest, channels: Channels): Promise<void> {
  const { tty, stdin, stdout, stderr } = request;
  if (tty) channels.onResize((rows, columns) => void link.resize(session, rows, columns));
  const open = (stream: number) => link.attach(session, stream);
  const [input, out, err] = await Promise.all([
    stdin ? open(STREAM.stdin) : undefined,
    stdout || tty ? open(STREAM.stdout) : undefined,
    stderr && !tty ? open(STREAM.stderr) : undefined,
  ]);
  if (input) channels.connectStdin(input);
  const outputs = Promise.all([out && channels.relay(out, "stdout"), err && channels.relay(err, "stderr")]);
  await Promise.race([outputs, channels.closed]);
  for (const socket of [input, out, err]) socket?.destroy();
}
