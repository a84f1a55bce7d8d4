/** What doubles of hypervisors have in common: a control socket, what they hold to be their machine, an end. */
import { createServer, type Server, type Socket } from "node:net";
import { createServer as createHttpServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { Program } from "../../src/hypervisor/machine.ts";

export type State = "none" | "running" | "paused";

/** The machine, in words that all share. */
export interface Told {
  readonly vcpus: number;
  readonly mib: number;
  readonly kernel: string;
  readonly initrd: string | undefined;
  readonly commandLine: string;
  /** Paths of what is behind its block devices, placeholders left out. */
  readonly disks: readonly string[];
  readonly nics: readonly { readonly tap: string; readonly mac: string }[];
  /** Tags. */
  readonly shares: readonly string[];
  /** Of its hybrid vsock. */
  readonly vsock: string | undefined;
}

export interface Double extends AsyncDisposable {
  readonly state: State;
  told(): Told;
  /** Its next answer to a request that changes something. */
  refuseNext(words: string): void;
  kill(): Promise<void>;
}

/** The values of a command line's options, by their names; one that is not in `known` is an error, as the program has it. */
export function optionsOf({ argv }: Program, known: Readonly<Record<string, "flag" | "value">>): Map<string, string[]> {
  const found = new Map<string, string[]>();
  const words = argv.slice(1);
  while (words.length > 0) {
    const word = words.shift() ?? "";
    const kind = known[word];
    if (kind === undefined) throw new Error(`unexpected argument '${word}'`);
    const value = kind === "flag" ? "" : words.shift();
    if (value === undefined) throw new Error(`a value is required for '${word}'`);
    found.set(word, [...(found.get(word) ?? []), value]);
  }
  return found;
}

/** Key and value of "a=b,c=d"; a part without "=" has none. */
export const partsOf = (value: string): Map<string, string> =>
  new Map(
    value.split(",").map((part): [string, string] => {
      const at = part.indexOf("=");
      return at < 0 ? [part, ""] : [part.slice(0, at), part.slice(at + 1)];
    }),
  );

export type Reply = { readonly status: number; readonly body?: unknown };

/** Holds its sockets, so that all end at once. */
export class Sockets implements AsyncDisposable {
  readonly #open = new Set<Socket>();
  readonly #servers: Server[] = [];

  async listen(server: Server, path: string): Promise<void> {
    server.on("connection", (socket: Socket) => {
      this.#open.add(socket);
      socket.on("close", () => this.#open.delete(socket));
      socket.on("error", () => {});
    });
    this.#servers.push(server);
    const { promise, resolve } = Promise.withResolvers<void>();
    server.listen(path, resolve);
    await promise;
  }

  async http(path: string, answer: (method: string, route: string, body: unknown) => Reply): Promise<void> {
    const server = createHttpServer((request, response) => void reply(request, response, answer));
    await this.listen(server, path);
  }

  /** Hybrid vsock: a line that names a port, a line that says it is there; then the guest's program. */
  async vsock(path: string, guest: (socket: Socket) => void): Promise<void> {
    await this.listen(
      createServer((socket) => {
        socket.once("data", (data: Buffer) => {
          const [, port] = /^CONNECT (\d+)\n$/.exec(data.toString()) ?? [];
          if (port === undefined) return void socket.destroy();
          socket.write(`OK ${1 << 30}\n`);
          guest(socket);
        });
      }),
      path,
    );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const closed = this.#servers.map((server) => {
      const { promise, resolve } = Promise.withResolvers<void>();
      server.close(() => resolve());
      return promise;
    });
    for (const socket of this.#open) socket.destroy();
    await Promise.all(closed);
  }
}

async function reply(
  request: IncomingMessage,
  response: ServerResponse,
  answer: (method: string, route: string, body: unknown) => Reply,
): Promise<void> {
  const chunks: Buffer[] = [];
  for await (const chunk of request) chunks.push(chunk as Buffer);
  const sent = Buffer.concat(chunks).toString();
  const { status, body } = answer(
    request.method ?? "",
    request.url ?? "",
    sent === "" ? undefined : (JSON.parse(sent) as unknown),
  );
  response.writeHead(status, { "Content-Type": "application/json" });
  response.end(body === undefined ? undefined : typeof body === "string" ? body : JSON.stringify(body));
}
