/** Connections to the ports of a pod: on its loopback, in its network namespace. */
import { connect, type Socket } from "node:net";
import type { CriContext } from "../context.ts";
import { precondition } from "../errors.ts";
import { kindOfPod } from "../runtimes/find.ts";

/** ms; a port of the loopback answers at once or, with a full backlog, not for minutes. */
const TIMEOUT_MS = 30_000;
const LOOPBACKS = ["127.0.0.1", "::1"] as const;

export async function dialPod(context: CriContext, sandboxId: string, port: number): Promise<Socket> {
  const sandbox = context.sandboxes.get(sandboxId);
  const { record } = sandbox;
  if (record.phase !== "ready") throw precondition(`pod sandbox "${record.id}" is not ready (it is ${record.phase})`);
  return await kindOfPod(context, record).dial(context, sandbox, port);
}

/** `netns`: where it is pinned; undefined: the host's. */
export function dialNamespace({ hand }: CriContext, netns: string | undefined, port: number): Promise<Socket> {
  return netns === undefined ? dialHost(port) : hand.dial(netns, port, { timeoutMs: TIMEOUT_MS });
}

async function dialHost(port: number): Promise<Socket> {
  const failures: unknown[] = [];
  for (const host of LOOPBACKS) {
    try {
      return await connected(host, port);
    } catch (error) {
      failures.push(error);
    }
  }
  throw failures[0];
}

function connected(host: string, port: number): Promise<Socket> {
  const { promise, resolve, reject } = Promise.withResolvers<Socket>();
  const socket = connect({ host, port, allowHalfOpen: true, noDelay: true });
  socket.setTimeout(TIMEOUT_MS, () => socket.destroy(new Error(`connect to ${host}, port ${port}: timed out`)));
  socket.once("error", reject).once("connect", () => {
    socket.setTimeout(0).off("error", reject);
    resolve(socket);
  });
  return promise;
}
