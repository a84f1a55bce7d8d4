/** The socket that agent-url names, by hybrid vsock's words: the way to the guest, and its debug console. */
import { createServer, type Socket } from "node:net";
import type { DebugConsole } from "./debug-console.ts";
import { AGENT_SOCKET } from "./place.ts";
import { connected, listenForRoot } from "./socket.ts";

export const DEBUG_PORT = 1026;
const LONGEST_LINE = 64;
/** Somebody who connects and says nothing is not waited for longer. */
const GREETING_MS = 10_000;

export interface AgentSocketOptions {
  /** The pod's, of management. */
  readonly directory: string;
  /** A hybrid vsock of the machine's: bosun's relay, or the hypervisor's. */
  readonly relay: string;
  /** A shell in the guest. Rejects with why there is none. Undefined: the port leads to the guest like any other. */
  readonly console: (() => Promise<DebugConsole>) | undefined;
  readonly log: (level: "debug" | "warn", message: string) => void;
}

/** Listens until it is disposed of; root alone can connect. */
export async function serveAgentSocket(options: AgentSocketOptions): Promise<AsyncDisposable> {
  const { directory, log } = options;
  const open = new Set<Socket>();
  const server = createServer({ allowHalfOpen: true, pauseOnConnect: true }, (socket) => {
    open.add(socket);
    socket.on("close", () => open.delete(socket));
    socket.on("error", (error) => log("debug", `${directory}: ${error.message}`));
    serve(socket, options).catch((error: unknown) => {
      // One line: what asks reads no more.
      socket.end(`ERR ${(error as Error).message.replaceAll("\n", " ")}\n`);
    });
  });
  return await listenForRoot(server, directory, AGENT_SOCKET, () => {
    for (const socket of open) socket.destroy();
  });
}

async function serve(socket: Socket, options: AgentSocketOptions): Promise<void> {
  const line = await greeting(socket);
  const port = Number(/^CONNECT (\d+)$/.exec(line)?.[1] ?? Number.NaN);
  if (Number.isNaN(port)) throw new Error(`"${line}" is not CONNECT and a port`);
  if (port === DEBUG_PORT && options.console) return joinConsole(socket, await options.console(), options.log);
  const other = await connected(options.relay);
  // It answers by itself.
  other.write(`${line}\n`);
  other.on("error", () => socket.destroy());
  socket.on("close", () => other.destroy());
  socket.pipe(other);
  other.pipe(socket);
}

function joinConsole(socket: Socket, { keyboard, screen, end }: DebugConsole, log: AgentSocketOptions["log"]): void {
  socket.write(`OK ${DEBUG_PORT}\n`);
  const over = (): void => {
    socket.end();
    end().catch((error: unknown) => log("debug", `the debug console's end: ${(error as Error).message}`));
  };
  for (const stream of [keyboard, screen]) stream.on("error", over);
  screen.on("close", over);
  socket.on("close", over);
  socket.pipe(keyboard);
  screen.pipe(socket);
}

/** Its first line; what comes behind it stays in the socket, which is paused. */
async function greeting(socket: Socket): Promise<string> {
  const { promise, resolve, reject } = Promise.withResolvers<string>();
  let got = Buffer.alloc(0);
  const late = setTimeout(() => reject(new Error("nothing was said")), GREETING_MS);
  const onData = (chunk: Buffer): void => {
    got = Buffer.concat([got, chunk]);
    const end = got.indexOf("\n");
    if (end < 0 && got.length <= LONGEST_LINE) return;
    if (end < 0) return reject(new Error(`a line of more than ${LONGEST_LINE} bytes`));
    socket.pause();
    socket.off("data", onData);
    if (got.length > end + 1) socket.unshift(got.subarray(end + 1));
    resolve(got.toString("latin1", 0, end).replace(/\r$/, ""));
  };
  const onEnd = (): void => reject(new Error("the connection ended before a line did"));
  socket.on("data", onData).once("end", onEnd).once("close", onEnd).resume();
  try {
    return await promise;
  } finally {
    clearTimeout(late);
    socket.off("data", onData).off("end", onEnd).off("close", onEnd);
  }
}
