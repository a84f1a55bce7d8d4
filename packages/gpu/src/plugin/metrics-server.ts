/** The metrics over HTTP, for Prometheus; /healthz beside them. */
import type { ServerResponse } from "node:http";
import type { PluginMetrics } from "./metrics.ts";

export interface MetricsServer extends AsyncDisposable {
  readonly port: number;
}

/** Serves on "IP:PORT", ":PORT" or "[IP]:PORT". Rejects where it cannot listen there. */
export async function serveMetrics(metrics: PluginMetrics, endpoint: string, path: string): Promise<MetricsServer> {
  // Imported, node:http would load all of undici for three of its names.
  const { createServer } = process.getBuiltinModule("node:http");
  const server = createServer((request, response) => {
    const [asked] = (request.url ?? "/").split("?", 1);
    if (request.method !== "GET") return answer(response, 405, "only GET\n");
    if (asked === "/healthz") return answer(response, 200, "ok\n");
    if (asked !== path) return answer(response, 404, `try ${path} or /healthz\n`);
    metrics.exposition().then(
      (text) => answer(response, 200, text, "text/plain; version=0.0.4; charset=utf-8"),
      (error: unknown) => answer(response, 500, `${(error as Error).message}\n`),
    );
  });
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const { host, port } = addressOf(endpoint);
  server.once("error", reject).listen(port, host, resolve);
  await promise;
  const bound = server.address();
  return {
    port: typeof bound === "object" && bound ? bound.port : port,
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

function addressOf(endpoint: string): { host: string | undefined; port: number } {
  const match = /^(?:\[([^\]]+)\]|([^:]*)):(\d+)$/.exec(endpoint);
  if (!match || Number(match[3]) > 65_535) throw new Error(`--http-endpoint "${endpoint}" is not of the form IP:PORT`);
  return { host: match[1] || match[2] || undefined, port: Number(match[3]) };
}
