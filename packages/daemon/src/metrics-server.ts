/** /v1/metrics (and /metrics, where others look), for Prometheus; /healthz beside it. */
import type { ServerResponse } from "node:http";
import { type CriContext, exposition } from "@berth/cri";

// Imported, node:http would load all of undici for three of its names: 16 MB and 50 ms.
const { createServer } = process.getBuiltinModule("node:http");

/** Serves on "IP:PORT". Rejects where it cannot listen there. */
export async function serveMetrics(context: CriContext, address: string): Promise<AsyncDisposable> {
  const scrape = exposition(context);
  const server = createServer((request, response) => {
    const [path] = (request.url ?? "/").split("?", 1);
    if (request.method !== "GET") return answer(response, 405, "only GET\n");
    if (path === "/healthz") return answer(response, 200, "ok\n");
    if (path !== "/v1/metrics" && path !== "/metrics") return answer(response, 404, "try /v1/metrics or /healthz\n");
    scrape().then(
      (text) => answer(response, 200, text, "text/plain; version=0.0.4; charset=utf-8"),
      (error: unknown) => {
        context.log.error({ err: error }, "could not make the metrics");
        answer(response, 500, "the log says why\n");
      },
    );
  });
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const { host, port } = parse(address);
  server.once("error", reject).listen(port, host, resolve);
  await promise;
  return {
    [Symbol.asyncDispose]: async () => {
      const closed = Promise.withResolvers<void>();
      server.close(() => closed.resolve());
      server.closeAllConnections();
      await closed.promise;
    },
  };
}

function answer(response: ServerResponse, code: number, text: string, type = "text/plain"): void {
  response.writeHead(code, { "content-type": type }).end(text);
}

function parse(address: string): { host: string; port: number } {
  const match = /^(?:\[([^\]]+)\]|([^:]*)):(\d+)$/.exec(address);
  if (!match || Number(match[3]) > 65_535) throw new Error(`metrics address "${address}" is not of the form IP:PORT`);
  return { host: match[1] ?? match[2] ?? "", port: Number(match[3]) };
}
