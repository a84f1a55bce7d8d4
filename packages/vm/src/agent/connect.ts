/** Ways to Kata's agent: a unix socket, a hypervisor's hybrid vsock, or a relay of berth's, over vsock or berth's own channel. */
import { connect as connectSocket, type Socket } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { reachPort, reachThrough } from "@berth/kernel";
import { VmError } from "../errors.ts";

export interface AgentAddress {
  /** A unix socket of the host's. */
  readonly socket: string;
  /** What is said to it first: "CONNECT port", as hybrid vsock has it. Undefined: the socket is the agent's own. */
  readonly port?: number | undefined;
  /** Then "PATH path": the agent's unix socket in the guest, through berth's channel. */
  readonly path?: string | undefined;
}

export interface DialOptions {
  /** In all, in milliseconds: the guest may not have booted yet. */
  readonly timeoutMs: number;
  readonly signal?: AbortSignal | undefined;
}

/** Kata's own (defaultAgentDialTimeout, hybrid vsock's handshake). */
const HANDSHAKE_MS = 10_000;
/** Nothing tells that an agent listens. */
const RETRY_MS = 100;
/** What a hypervisor, a relay or a guest says where nobody listens yet. */
const NOT_YET = new Set(["ENOENT", "ECONNREFUSED", "ECONNRESET", "EPIPE", "ETIMEDOUT", "EAGAIN"]);

/** Tries until the agent's end is there. Rejects with VmError Guest, or the signal's reason. */
export async function dialAgent(address: AgentAddress, { timeoutMs, signal }: DialOptions): Promise<Socket> {
  const end = Date.now() + timeoutMs;
  for (;;) {
    signal?.throwIfAborted();
    const left = Math.max(1, end - Date.now());
    try {
      return await dialOnce(address, Math.min(left, HANDSHAKE_MS), signal);
    } catch (error) {
      signal?.throwIfAborted();
      const { code = "", message } = error as NodeJS.ErrnoException;
      if (!NOT_YET.has(code) || Date.now() + RETRY_MS > end)
        throw new VmError("Guest", `the guest's agent did not answer at ${nameOf(address)}: ${message}`, {
          cause: error,
        });
    }
    await sleep(RETRY_MS, undefined, signal ? { signal } : {});
  }
}

export const nameOf = ({ socket, port, path }: AgentAddress): string =>
  `${socket}${port === undefined ? "" : `:${port}`}${path === undefined ? "" : ` ${path}`}`;

function dialOnce({ socket, port, path }: AgentAddress, timeoutMs: number, signal?: AbortSignal): Promise<Socket> {
  const options = { timeoutMs, port, signal };
  if (port === undefined) return connected(socket, signal);
  return path === undefined ? reachPort(socket, options) : reachThrough(socket, options)(path);
}

/** To a socket of this host's: connect(2) does not wait for anybody. */
function connected(path: string, signal: AbortSignal | undefined): Promise<Socket> {
  const { promise, resolve, reject } = Promise.withResolvers<Socket>();
  const socket = connectSocket({ path, allowHalfOpen: true, signal });
  socket.once("error", reject).once("connect", () => {
    socket.off("error", reject);
    resolve(socket);
  });
  return promise;
}
