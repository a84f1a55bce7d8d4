/** Connections to CRI endpoints: named ones are tried again with growing pauses, the usual places once each. */
import { existsSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { socketPath } from "../address.ts";
import { DaemonUnreachable } from "../call-error.ts";
import type { Client } from "../client.ts";
import type { Images, Runtime } from "./command.ts";
import { DEFAULT_ENDPOINTS, type Settings } from "./config.ts";
import { CrictlError } from "./errors.ts";

const FIRST_PAUSE_MS = 500;
const LONGEST_PAUSE_MS = 5000;
/** Calls without a deadline of their own: they last as long as what they are for. */
const ENDLESS: ReadonlySet<string> = new Set(["getContainerEvents", "pullImage"]);

export class Connections implements Disposable {
  readonly #settings: Settings;
  readonly #clients = new Map<string, Client>();

  constructor(settings: Settings) {
    this.#settings = settings;
  }

  async runtime(timeoutMs?: number): Promise<Runtime> {
    const { runtimeEndpoint } = this.#settings;
    if (runtimeEndpoint === "") throw new CrictlError("--runtime-endpoint is not set");
    const client = await this.#connect(runtimeEndpoint);
    return withDeadline(client.runtime, timeoutMs || this.#settings.timeoutMs);
  }

  async images(): Promise<Images> {
    const { imageEndpoint, runtimeEndpoint } = this.#settings;
    const endpoint = imageEndpoint || runtimeEndpoint;
    if (endpoint === "") throw new CrictlError("--image-endpoint is not set");
    return withDeadline((await this.#connect(endpoint)).images, this.#settings.timeoutMs);
  }

  async #connect(endpoint: string | undefined): Promise<Client> {
    const chosen =
      endpoint ?? DEFAULT_ENDPOINTS.find((each) => existsSync(socketPath(each))) ?? DEFAULT_ENDPOINTS[0] ?? "";
    const known = this.#clients.get(chosen);
    if (known) return known;
    const { connect } = await import("../client.ts");
    const retries = endpoint === undefined ? 0 : this.#settings.maxRetries;
    let pause = FIRST_PAUSE_MS;
    for (let attempt = 0; ; attempt++) {
      const client = connect(chosen);
      try {
        await client.runtime.version({}, { timeout: this.#settings.timeoutMs });
        this.#clients.set(chosen, client);
        return client;
      } catch (error) {
        client.close();
        if (!(error instanceof DaemonUnreachable)) throw error;
        if (retries >= 0 && attempt >= retries)
          throw new CrictlError(
            `validate service connection: validate CRI v1 runtime API for endpoint ${JSON.stringify(chosen)}: rpc error: code = Unavailable desc = ${error.message}`,
          );
      }
      await sleep(pause);
      pause = Math.min(pause * 2, LONGEST_PAUSE_MS);
    }
  }

  [Symbol.dispose](): void {
    for (const client of this.#clients.values()) client.close();
  }
}

type Call = (request: { timeout?: bigint }, options?: { timeout?: number | undefined }) => unknown;

/** Sets the deadline that crictl's client library sets for each call. */
function withDeadline<S extends object>(service: S, timeoutMs: number): S {
  const calls = Object.entries(service) as [string, Call][];
  return Object.fromEntries(
    calls.map(([name, call]) => [
      name,
      (request: { timeout?: bigint }, options: { timeout?: number } = {}) =>
        call(request, { ...(ENDLESS.has(name) ? {} : { timeout: deadlineOf(name, request, timeoutMs) }), ...options }),
    ]),
  ) as S;
}

/** A pod takes twice as long; stopping and executing take what they were given on top. 0: for ever. */
function deadlineOf(name: string, request: { timeout?: bigint }, timeoutMs: number): number | undefined {
  const own = Number(request.timeout ?? 0n) * 1000;
  if (name === "runPodSandbox") return timeoutMs * 2;
  if (name === "execSync") return own > 0 ? timeoutMs + own : undefined;
  if (name === "stopContainer") return timeoutMs + own;
  if (name === "checkpointContainer") return undefined;
  return timeoutMs;
}
