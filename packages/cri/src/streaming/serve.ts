/** What an exec's or attach's URL does once opened: relays between the client's streams and the monitor's. */
import type { Socket } from "node:net";
import type { Readable, Writable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { OrderError, STREAM, type MonitorLink } from "@berth/kernel";
import { execCall } from "../container/exec.ts";
import { runningContainer } from "../container/running.ts";
import type { CriContext } from "../context.ts";
import { precondition } from "../errors.ts";
import { followResizes, type Remote, type Wanted } from "./remote.ts";
import type { ExecRequest, RemoteRequest } from "./requests.ts";
import { NonZeroExit } from "./status.ts";

const SIGKILL = 9;
/** Until the client has said how large it is. */
const FIRST_SIZE = { rows: 24, columns: 80 };

/** A stream that is ready to be served: `abandon` is for a client that never came. */
export interface Prepared {
  serve(remote: Remote): Promise<void>;
  abandon(): void;
}

export async function prepareRemote(context: CriContext, request: RemoteRequest): Promise<Prepared> {
  if (request.kind === "exec")
    return { serve: (remote) => serveExec(context, request, remote), abandon: () => undefined };
  const { record, link } = context.containers.get(request.containerId);
  if (!link) throw precondition(`container "${record.id}" is not running (it is ${record.phase})`);
  const wanted = { ...request, tty: record.config.tty, stdin: request.stdin && record.config.stdin };
  // Before the client learns that it is attached, for it may start the container at once.
  const sockets = await openSockets(link, 0, wanted);
  return {
    serve: (remote) => pump(link, 0, wanted.tty, sockets, remote),
    abandon: () => sockets.forEach((socket) => socket?.destroy()),
  };
}

async function serveExec(context: CriContext, request: ExecRequest, remote: Remote): Promise<void> {
  const running = await runningContainer(context, request.containerId);
  const { link } = running;
  const terminal = request.tty ? FIRST_SIZE : undefined;
  await using call = await execCall(context, running, { cmd: request.cmd, terminal: request.tty });
  const { session } = await call.told(link.exec({ plan: call.plan, terminal, streams: streamsOf(request) }));
  let ended = false;
  // The monitor may be gone by then, and its commands with it.
  const kill = () => (ended ? undefined : link.kill(session, SIGKILL).catch(() => undefined));
  // A client that goes away takes its command with it, as with containerd.
  void remote.closed.then(kill);
  const exited = link.wait(session);
  exited.catch(() => undefined);
  try {
    await pump(link, session, request.tty, await openSockets(link, session, request), remote);
    const { code } = await exited;
    ended = true;
    if (code !== 0) throw new NonZeroExit(code);
  } finally {
    await kill();
  }
}

const streamsOf = ({ stdin, stdout, stderr, tty }: Wanted): number =>
  (stdin ? STREAM.stdin : 0) | (stdout || tty ? STREAM.stdout : 0) | (stderr && !tty ? STREAM.stderr : 0);

async function openSockets(link: MonitorLink, session: number, wanted: Wanted): Promise<(Socket | undefined)[]> {
  const bits = streamsOf(wanted);
  const open = (stream: number) => (bits & stream ? link.attach(session, stream) : Promise.resolve(undefined));
  return Promise.all([open(STREAM.stdin).catch(unreadInput), open(STREAM.stdout), open(STREAM.stderr)]);
}

/** A process that has closed its input already, or ended, still has outputs to be read. */
function unreadInput(error: unknown): undefined {
  if (error instanceof OrderError && error.code === "EPIPE") return undefined;
  throw error;
}

/** Until the session's outputs have ended, or the client has gone. */
async function pump(
  link: MonitorLink,
  session: number,
  tty: boolean,
  [input, out, err]: readonly (Socket | undefined)[],
  remote: Remote,
): Promise<void> {
  if (tty && remote.resize)
    void followResizes(remote.resize, (rows, columns) => {
      // The process may be gone by the time its terminal is resized.
      link.resize(session, rows, columns).catch(() => undefined);
    }).catch(() => undefined);
  feed(remote.stdin, input);
  await Promise.race([Promise.all([relay(out, remote.stdout), relay(err, remote.stderr)]), remote.closed]);
  for (const socket of [input, out, err]) socket?.destroy();
}

/** The process may end before it has read everything: what still comes is then dropped, so that the client is not held up. */
function feed(from: Readable | undefined, to: Socket | undefined): void {
  if (!from) return;
  if (!to) return void from.resume();
  to.on("close", () => {
    from.unpipe(to);
    from.resume();
  });
  to.on("error", () => to.destroy());
  from.pipe(to);
}

async function relay(from: Socket | undefined, to: Writable | undefined): Promise<void> {
  if (!from) return;
  if (!to) return void from.resume();
  // A client that has gone is told by `closed`; a monitor that has gone, by the session's end.
  await pipeline(from, to).catch(() => undefined);
}
