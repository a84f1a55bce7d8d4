/** The client of shim-monitor.sock, berth's or Kata's. */
import type { IncomingMessage } from "node:http";
import { join } from "node:path";
import type { Socket } from "node:net";
import { VmError } from "../errors.ts";
import { MONITOR_SOCKET, withSocketPath } from "./place.ts";
import { connected } from "./socket.ts";

const { request: send } = process.getBuiltinModule("node:http");

/** kata-runtime waits 3 s, which an emulated guest on a busy node may not answer in. */
const TIMEOUT_MS = 30_000;

export interface ManagementCall {
  readonly method?: "GET" | "PUT" | "POST";
  /** With its query. */
  readonly path: string;
  readonly body?: Uint8Array;
  readonly type?: string;
  /** Milliseconds; default 30,000. */
  readonly timeoutMs?: number;
}

/** `directory`: the pod's. Rejects with VmError: nobody answers in time, or the answer is not 200. */
export async function askManagement(directory: string, call: ManagementCall): Promise<Buffer> {
  const { method = "GET", path, body, type, timeoutMs = TIMEOUT_MS } = call;
  const limit = AbortSignal.timeout(timeoutMs);
  const at = join(directory, MONITOR_SOCKET);
  try {
    const socket = await dial(directory, MONITOR_SOCKET);
    const { promise, resolve, reject } = Promise.withResolvers<IncomingMessage>();
    const request = send({
      method,
      path,
      signal: limit,
      headers: { host: "shim", connection: "close", ...(type !== undefined && { "content-type": type }) },
      createConnection: () => socket,
    });
    request.once("response", resolve).once("error", reject).end(body);
    const response = await promise;
    const chunks: Buffer[] = [];
    for await (const chunk of response as AsyncIterable<Buffer>) chunks.push(chunk);
    const answer = Buffer.concat(chunks);
    if (response.statusCode === 200) return answer;
    throw new VmError(
      "Guest",
      `error sending ${method.toLowerCase()}: url: ${path}, status code: ${response.statusCode}, response data: ${answer.toString()}`,
    );
  } catch (error) {
    if (error instanceof VmError) throw error;
    const words = limit.aborted ? `no answer within ${timeoutMs} ms` : (error as Error).message;
    throw new VmError("Guest", `${at}: ${words}`, { cause: error });
  }
}

/** Connected. Rejects with connect(2)'s error. */
export async function dial(directory: string, name: string): Promise<Socket> {
  return await withSocketPath(directory, name, connected);
}
