/** Debian's docker-registry for a test, and what goes in front of it. */
import { spawn, spawnSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import {
  createServer as createHttpServer,
  type IncomingMessage,
  request as httpRequest,
  type ServerResponse,
} from "node:http";
import { type AddressInfo, connect, createServer, type Server } from "node:net";
import { join } from "node:path";
import type { TestContext } from "node:test";
import { whyNoBosun } from "./store.ts";

/** Why a test cannot run here; undefined: it can. */
export function whyNot(...programs: readonly string[]): string | undefined {
  const missing = programs.filter((program) => spawnSync("sh", ["-c", `command -v ${program}`]).status !== 0);
  return whyNoBosun() ?? (missing.length > 0 ? `not installed: ${missing.join(", ")}` : undefined);
}

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}

/** Resolves to its host when it listens. `extra`: more lines of its configuration; `http`: of its http section. */
export async function dockerRegistry(t: TestContext, directory: string, extra = "", http = ""): Promise<string> {
  for (let tries = 0; tries < 5; tries++) {
    const host = await registryAt(t, await freePort(), directory, extra, http);
    if (host !== undefined) return host;
  }
  throw new Error("docker-registry finds no port that is free");
}

/** Undefined: it has ended, as it does where another program was faster to take the port. */
async function registryAt(
  t: TestContext,
  port: number,
  directory: string,
  extra: string,
  http: string,
): Promise<string | undefined> {
  const config = join(directory, "registry.yml");
  writeFileSync(
    config,
    `version: 0.1\nlog:\n  accesslog:\n    disabled: true\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: ${directory}/registry\nhttp:\n  addr: 127.0.0.1:${port}\n  relativeurls: true\n${http}${extra}`,
  );
  const child = spawn("docker-registry", ["serve", config], { stdio: "ignore" });
  const ended = new Promise((resolve) => child.once("exit", resolve));
  t.after(async () => {
    child.kill("SIGKILL");
    await ended;
  });
  while (child.exitCode === null) {
    if (await listens(port)) return `127.0.0.1:${port}`;
    await new Promise((resolve) => setTimeout(resolve, 25));
  }
  return undefined;
}

function listens(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, "127.0.0.1", () => {
      socket.destroy();
      resolve(true);
    });
    socket.once("error", () => resolve(false));
  });
}

export async function listen(t: TestContext, server: Server & { closeAllConnections?: () => void }): Promise<string> {
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.after(() => {
    server.closeAllConnections?.();
    server.close();
  });
  return `127.0.0.1:${(server.address() as AddressInfo).port}`;
}

/** Returns true where it has answered, or cut, the request itself. */
export type Meddle = (request: IncomingMessage, response: ServerResponse, onward: () => void) => boolean;

/** Everything goes on to `target`, unless `meddle` has other plans. Resolves to its host. */
export async function frontOf(t: TestContext, target: string, meddle: Meddle): Promise<string> {
  const [host = "", port = ""] = target.split(":");
  const server = createHttpServer((request, response) => {
    const onward = (): void => {
      const { method, url: path, headers } = request;
      const next = httpRequest({ host, port, method, path, headers }, (answer) => {
        response.writeHead(answer.statusCode ?? 502, answer.headers);
        answer.pipe(response);
      });
      next.on("error", () => response.destroy());
      response.on("error", () => next.destroy());
      request.pipe(next);
    };
    if (!meddle(request, response, onward)) onward();
  });
  return await listen(t, server);
}
