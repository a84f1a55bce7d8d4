/** berth-vm monitor: kata-monitor's HTTP interface for all machines of the node. */
import type { IncomingMessage, ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { basename } from "node:path";
import { promisify } from "node:util";
import { gzip } from "node:zlib";
import { VmError } from "../errors.ts";
import { askManagement } from "../management/client.ts";
import { findSandbox } from "../management/place.ts";
import type { Aggregator } from "./aggregate.ts";
import { CONTENT_TYPE, exposition } from "./exposition.ts";

const { createServer } = process.getBuiltinModule("node:http");

interface Answer {
  readonly body: string | Uint8Array;
  readonly type?: string;
}

interface Asked {
  readonly aggregator: Aggregator;
  readonly directories: readonly string[];
  readonly url: URL;
  readonly html: boolean;
}

interface Endpoint {
  readonly path: string;
  readonly words: string;
  /** Whether it can be followed without a pod's id. */
  readonly linked?: boolean;
  answer(asked: Asked): Promise<Answer>;
}

const HTML = "text/html";
const TEXT = "text/plain; charset=utf-8";

const debug = (path: string): Endpoint => ({
  path,
  words: `Golang pprof \`${path}\` endpoint for kata runtime shim process.`,
  answer: passed,
});

const ENDPOINTS: readonly Endpoint[] = [
  { path: "/metrics", words: "Get metrics from sandboxes.", linked: true, answer: metrics },
  { path: "/sandboxes", words: "List all Kata Containers sandboxes.", linked: true, answer: sandboxes },
  { path: "/agent-url", words: "Get sandbox agent URL.", answer: agentUrl },
  ...["vars", "pprof/", "pprof/cmdline", "pprof/profile", "pprof/symbol", "pprof/trace"].map((name) =>
    debug(`/debug/${name}`),
  ),
];

async function metrics({ aggregator, directories, url }: Asked): Promise<Answer> {
  const id = url.searchParams.get("sandbox") ?? "";
  if (id !== "") return { body: await aggregator.one(await findSandbox(id, directories)), type: CONTENT_TYPE };
  const prefixes = (url.searchParams.get("filter_family") ?? "").split(",").filter((prefix) => prefix !== "");
  return { body: exposition(await aggregator.all(prefixes)), type: CONTENT_TYPE };
}

async function sandboxes({ aggregator, html }: Asked): Promise<Answer> {
  const ids = (await aggregator.sandboxes()).map((path) => basename(path));
  if (!html) return { body: ids.map((id) => `${id}\n`).join("") };
  const links = (id: string): string =>
    [
      ["pprof", `/debug/pprof/?sandbox=${id}`],
      ["metrics", `/metrics?sandbox=${id}`],
      ["agent-url", `/agent-url?sandbox=${id}`],
    ]
      .map(([name, to]) => `<a href='${to}'>${name}</a>`)
      .join(", ");
  const list = ids.map((id) => `<li>${id}: ${links(id)}</li>\n`).join("");
  return { body: `<h1>Sandbox list</h1>\n<ul>\n${list}</ul>\n`, type: HTML };
}

async function agentUrl({ directories, url }: Asked): Promise<Answer> {
  const directory = await findSandbox(sandboxOf(url), directories);
  return { body: `${(await askManagement(directory, { path: "/agent-url" })).toString()}\n` };
}

/** To the pod's own server, which is berth's (it has none of them) or Kata's. */
async function passed({ directories, url }: Asked): Promise<Answer> {
  const directory = await findSandbox(sandboxOf(url), directories);
  return { body: await askManagement(directory, { path: `${url.pathname}${url.search}` }) };
}

function sandboxOf(url: URL): string {
  const id = url.searchParams.get("sandbox") ?? "";
  if (id === "") throw new VmError("InvalidArgument", `sandbox not found in ${url.search || "the query"}`);
  return id;
}

export interface MonitorOptions {
  readonly aggregator: Aggregator;
  readonly directories: readonly string[];
  /** "IP:PORT"; port 0: any that is free. */
  readonly address: string;
  readonly log: (level: "debug" | "warn" | "error", message: string) => void;
}

export interface MonitorServer extends AsyncDisposable {
  readonly port: number;
}

/** Rejects with VmError InvalidArgument for what is no address, or with listen(2)'s error. */
export async function serveMonitor({ aggregator, directories, address, log }: MonitorOptions): Promise<MonitorServer> {
  const [, six, four = "", port] = /^(?:\[([^\]]+)\]|([^:]*)):(\d{1,5})$/.exec(address) ?? [];
  if (port === undefined || Number(port) > 65_535)
    throw new VmError("InvalidArgument", `listen-address: "${address}" is not of the form IP:PORT`);
  const server = createServer((request, response) => {
    respond(request, response, aggregator, directories).catch((error: unknown) => {
      log("warn", `${request.url}: ${(error as Error).message}`);
      if (!response.headersSent)
        response.writeHead(error instanceof VmError && error.code !== "Guest" ? 400 : 500, { "content-type": TEXT });
      response.end(`${(error as Error).message}\n`);
    });
  });
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  server.once("error", reject).listen(Number(port), six ?? four, resolve);
  await promise;
  return {
    port: (server.address() as AddressInfo).port,
    [Symbol.asyncDispose]: async () => {
      const closed = Promise.withResolvers<void>();
      server.close(() => closed.resolve());
      server.closeAllConnections();
      await closed.promise;
    },
  };
}

async function respond(
  request: IncomingMessage,
  response: ServerResponse,
  aggregator: Aggregator,
  directories: readonly string[],
): Promise<void> {
  const url = new URL(request.url ?? "/", "http://monitor");
  if (request.method !== "GET" && request.method !== "HEAD")
    return void response.writeHead(405, { "content-type": TEXT }).end("only GET\n");
  const html = (request.headers.accept ?? "").split(",").includes(HTML);
  const endpoint = ENDPOINTS.find(({ path }) => path === url.pathname);
  const { body, type = TEXT } = endpoint
    ? await endpoint.answer({ aggregator, directories, url, html })
    : { body: index(html), type: html ? HTML : TEXT };
  const zipped = /\bgzip\b/.test(request.headers["accept-encoding"]?.toString() ?? "") && url.pathname === "/metrics";
  response.writeHead(200, { "content-type": type, ...(zipped && { "content-encoding": "gzip" }) });
  response.end(zipped ? await promisify(gzip)(body) : body);
}

function index(html: boolean): string {
  if (!html) {
    const width = Math.max(...ENDPOINTS.map(({ path }) => path.length)) + 3;
    return `Available HTTP endpoints:\n${ENDPOINTS.map(({ path, words }) => `${path.padEnd(width)}: ${words}\n`).join("")}`;
  }
  const name = ({ path, linked }: Endpoint): string => (linked === true ? `<a href='${path}'>${path}</a>` : path);
  const list = ENDPOINTS.map((endpoint) => `<li><b>${name(endpoint)}</b>: ${endpoint.words}\n</li>`).join("");
  return `<h1>Available HTTP endpoints:</h1>\n<ul>${list}</ul>`;
}
