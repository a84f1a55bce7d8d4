/** Kata's management of one pod over HTTP at shim-monitor.sock: what kata-monitor and kata-runtime ask its shim. */
import { mkdir, rm, rmdir } from "node:fs/promises";
import type { IncomingMessage, ServerResponse } from "node:http";
import { join } from "node:path";
import { VmError } from "../errors.ts";
import { CONTENT_TYPE } from "../monitor/exposition.ts";
import { AGENT_SOCKET, KATA_DIRECTORIES, MONITOR_SOCKET } from "./place.ts";
import type { ManagedSandbox } from "./sandbox.ts";
import { listenForRoot } from "./socket.ts";

// Imported, node:http would load all of undici for three of its names: 16 MB and 50 ms.
const { createServer } = process.getBuiltinModule("node:http");

/** As much as Kata's agent takes of a policy. */
const LARGEST_BODY = 16 << 20;

type Log = (level: "debug" | "warn", message: string) => void;

interface Answer {
  readonly body: string | Uint8Array;
  readonly type?: string;
}
type Route = (sandbox: ManagedSandbox, request: IncomingMessage, url: URL) => Promise<Answer>;

const none: Answer = { body: "" };
const octets = "application/octet-stream";

const tables = (v6: boolean): Readonly<Record<string, Route>> => ({
  GET: async (sandbox) => ({ body: await sandbox.iptables(v6), type: octets }),
  PUT: async (sandbox, request) => {
    await sandbox.setIptables(v6, await bodyOf(request));
    return none;
  },
});

/** By path and method. */
const ROUTES: Readonly<Record<string, Readonly<Record<string, Route>>>> = {
  "/metrics": { GET: async (sandbox) => ({ body: await sandbox.metrics(), type: CONTENT_TYPE }) },
  "/iptables": tables(false),
  "/ip6tables": tables(true),
  "/policy": {
    PUT: async (sandbox, request) => {
      await sandbox.setPolicy((await bodyOf(request)).toString());
      return none;
    },
  },
  // Kata's client GETs it, its documents say POST.
  "/direct-volume/stats": { GET: volumeStats, POST: volumeStats },
  "/direct-volume/resize": {
    POST: async (sandbox, request) => {
      const { path, size } = resizeOf(await bodyOf(request));
      await sandbox.resizeVolume(path, size);
      return none;
    },
  },
};

async function volumeStats(sandbox: ManagedSandbox, _request: IncomingMessage, url: URL): Promise<Answer> {
  const path = url.searchParams.get("path") ?? "";
  if (path === "") throw new VmError("InvalidArgument", "Required parameter path not found");
  // Kata's client escapes it twice.
  return { body: await sandbox.volumeStats(decodeURIComponent(path)), type: "application/json" };
}

function resizeOf(body: Buffer): { path: string; size: number } {
  let parsed: Readonly<Record<string, unknown>> | null;
  try {
    parsed = JSON.parse(body.toString()) as typeof parsed;
  } catch (error) {
    throw new VmError("InvalidArgument", `the body is no JSON: ${(error as Error).message}`);
  }
  // kata-runtime's names, and kata-ctl's.
  const path = parsed?.["VolumePath"] ?? parsed?.["volume_guest_path"];
  const size = parsed?.["Size"] ?? parsed?.["size"];
  if (typeof path !== "string" || path === "" || !Number.isSafeInteger(size) || Number(size) <= 0)
    throw new VmError("InvalidArgument", "the body must have VolumePath, a text, and Size, a number of bytes");
  return { path, size: Number(size) };
}

async function bodyOf(request: IncomingMessage): Promise<Buffer> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of request as AsyncIterable<Buffer>) {
    size += chunk.length;
    if (size > LARGEST_BODY) throw new VmError("InvalidArgument", `the body has more than ${LARGEST_BODY} bytes`);
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}

export interface ManagementOptions {
  /** All pods' directories are below it. */
  readonly sandboxes: string;
  readonly log: Log;
}

/** Listens until it is disposed of; root alone can connect. What an earlier server left at the path goes. */
export async function serveManagement(
  sandbox: ManagedSandbox,
  { sandboxes, log }: ManagementOptions,
): Promise<AsyncDisposable> {
  const directory = join(sandboxes, sandbox.id);
  await mkdir(sandboxes, { recursive: true, mode: 0o711 });
  await mkdir(directory, { recursive: true, mode: 0o700 });
  const agentUrl = `hvsock://${join(directory, AGENT_SOCKET)}:1024`;
  const server = createServer((request, response) => {
    answer(sandbox, agentUrl, request, response).catch((error: unknown) => {
      log("warn", `pod ${sandbox.id}: ${request.method} ${request.url}: ${(error as Error).message}`);
      refuse(response, error);
    });
  });
  return await listenForRoot(server, directory, MONITOR_SOCKET, () => server.closeAllConnections());
}

/** All of a pod's, when it is gone; of the last one the directory too, unless it is Kata's, which its clients watch. Idempotent. */
export async function removeManagement(sandboxes: string, id: string): Promise<void> {
  await rm(join(sandboxes, id), { recursive: true, force: true });
  if ((KATA_DIRECTORIES as readonly string[]).includes(sandboxes)) return;
  await rmdir(sandboxes).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== "ENOTEMPTY" && error.code !== "ENOENT") throw error;
  });
}

async function answer(
  sandbox: ManagedSandbox,
  agentUrl: string,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  const url = new URL(request.url ?? "/", "http://shim");
  if (url.pathname === "/agent-url")
    return void response.writeHead(200, { "content-type": "text/plain" }).end(agentUrl);
  const methods = ROUTES[url.pathname];
  if (!methods) return void response.writeHead(404, { "content-type": "text/plain" }).end("404 page not found\n");
  const route = methods[request.method ?? ""];
  if (!route) return void response.writeHead(501).end();
  const { body, type = "text/plain" } = await route(sandbox, request, url);
  response.writeHead(200, { "content-type": type }).end(body);
}

/** As Kata's shim: whatever went wrong is 500 with the words, but for a parameter that is missing. */
function refuse(response: ServerResponse, error: unknown): void {
  const code = error instanceof VmError && error.code === "InvalidArgument" ? 400 : 500;
  if (response.headersSent) response.destroy();
  else response.writeHead(code, { "content-type": "text/plain" }).end((error as Error).message);
}
