/** Ways to a unix socket of bosun's: on this machine, or in a virtual one, through the relay of its channel. */
import type { Socket } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { connectTo } from "./client.ts";

/** Connects to the socket at this path, half-open allowed; it may come paused. Rejects with an Error whose `code` is connect(2)'s. */
export type Reach = (path: string) => Promise<Socket>;

export interface RelayOptions {
  /** How long the guest may take to be there, in milliseconds: it may not have booted yet. Default 30,000. */
  readonly timeoutMs?: number;
  /** The vsock port that `CONNECT` names. Default 1024. */
  readonly port?: number | undefined;
  readonly signal?: AbortSignal | undefined;
}

const TIMEOUT_MS = 30_000;
const PORT = 1024;
/** `bosun relay` and the guest answer with less. */
const LONGEST_LINE = 256;
/** A listener in the machine whose queue is full: nothing tells when it has room. */
const QUEUE_MS = 10_000;
const QUEUE_RETRY_MS = 5;

/**
 * Reaches sockets of a virtual machine through `relay`: the socket of `bosun relay`, or a hypervisor's hybrid vsock. A path may also
 * be `tcp:PORT`, a port of the machine's loopback. Waits for the guest.
 */
export function reachThrough(relay: string, options: RelayOptions = {}): Reach {
  return async (path) => {
    for (const end = Date.now() + QUEUE_MS; ;) {
      try {
        return await openStream(relay, path, options);
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== "EAGAIN" || Date.now() > end) throw error;
      }
      await sleep(QUEUE_RETRY_MS);
    }
  };
}

/** Reaches the machine's port itself, on which nothing has been said yet: what hybrid vsock gives by `CONNECT`. The socket comes paused. */
export async function reachPort(relay: string, options: RelayOptions = {}): Promise<Socket> {
  return await opened(relay, options, () => Promise.resolve());
}

async function openStream(relay: string, path: string, options: RelayOptions): Promise<Socket> {
  return await opened(relay, options, async (socket, signal) => {
    socket.write(`PATH ${path}\n`);
    const answer = await readLine(socket, signal);
    if (answer === "OK") return;
    const code = /^ERR (E[A-Z0-9]+)$/.exec(answer)?.[1];
    if (code === undefined) throw failure(`${relay} said ${JSON.stringify(answer)} to PATH ${path}`, "EPROTO");
    throw failure(`connect ${path} through ${relay}: ${code}`, code);
  });
}

async function opened(
  relay: string,
  { timeoutMs = TIMEOUT_MS, port = PORT, signal }: RelayOptions,
  ask: (socket: Socket, signal: AbortSignal) => Promise<void>,
): Promise<Socket> {
  signal?.throwIfAborted();
  const socket = await connectTo(relay);
  const limit = AbortSignal.timeout(timeoutMs);
  const either = signal === undefined ? limit : AbortSignal.any([signal, limit]);
  try {
    socket.write(`CONNECT ${port}\n`);
    const greeting = await readLine(socket, either);
    if (!greeting.startsWith("OK"))
      throw failure(`${relay} said ${JSON.stringify(greeting)} to CONNECT ${port}`, "EPROTO");
    await ask(socket, either);
    return socket;
  } catch (error) {
    socket.destroy();
    if (error === limit.reason) throw failure(`${relay}: the guest did not answer within ${timeoutMs} ms`, "ETIMEDOUT");
    throw error;
  }
}

function failure(message: string, code: string): NodeJS.ErrnoException {
  return Object.assign(new Error(message), { code });
}

/** One line without its end; what came behind it is left in the socket, which is paused. */
async function readLine(socket: Socket, signal: AbortSignal): Promise<string> {
  const { promise, resolve, reject } = Promise.withResolvers<string>();
  let got = Buffer.alloc(0);
  const onData = (chunk: Buffer): void => {
    got = Buffer.concat([got, chunk]);
    const end = got.indexOf("\n");
    if (end < 0 && got.length < LONGEST_LINE) return;
    if (end < 0) return reject(failure("a line of more than 256 bytes", "EPROTO"));
    socket.pause();
    socket.off("data", onData);
    if (got.length > end + 1) socket.unshift(got.subarray(end + 1));
    resolve(got.toString("utf8", 0, end));
  };
  const onEnd = (): void => reject(socket.errored ?? failure("the channel to the guest ended", "ECONNRESET"));
  const onAbort = (): void => reject(signal.reason);
  signal.throwIfAborted();
  socket.on("data", onData).on("end", onEnd).on("close", onEnd);
  signal.addEventListener("abort", onAbort, { once: true });
  socket.resume();
  try {
    return await promise;
  } finally {
    socket.off("data", onData).off("end", onEnd).off("close", onEnd);
    signal.removeEventListener("abort", onAbort);
  }
}
