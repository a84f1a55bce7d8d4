/** berthd's socket: the CRI's two services and berth's own, with the streaming server beside them. */
import { chmod, chown, rm } from "node:fs/promises";
import { connect } from "node:net";
import { Server, ServerCredentials } from "@grpc/grpc-js";
import { berth, cri } from "@berth/spec";
import type { CriContext } from "../context.ts";
import { imageHandlers, ownHandlers, runtimeHandlers } from "../services.ts";
import { streamOpener } from "../streaming/open.ts";
import { streamingOptions } from "../streaming/options.ts";
import { StreamingServer } from "../streaming/server.ts";
import { addService, type Observe } from "./grpc.ts";

/** The kubelet's own limit on messages of the CRI. */
const MAX_MESSAGE = 16 << 20;

export class CriServer {
  readonly #context: CriContext;
  readonly #server: Server;
  readonly #streaming: StreamingServer;
  readonly #addresses: readonly string[];

  private constructor(context: CriContext, server: Server, streaming: StreamingServer, addresses: readonly string[]) {
    this.#context = context;
    this.#server = server;
    this.#streaming = streaming;
    this.#addresses = addresses;
  }

  /** Serves on these unix sockets, for root and the group `gid` (0: root alone); one that another daemon answers on is an error, a dead one is replaced. */
  static async listen(context: CriContext, addresses: readonly string[], gid = 0): Promise<CriServer> {
    for (const address of addresses) await clearSocket(address);
    const options = await streamingOptions(context.config);
    const streaming = await StreamingServer.listen(options, streamOpener(context, options), context.log);
    const server = new Server({
      "grpc.max_receive_message_length": MAX_MESSAGE,
      "grpc.max_send_message_length": MAX_MESSAGE,
      // Its bookkeeping of each stream, which nobody can ask for here.
      "grpc.enable_channelz": 0,
    });
    const observe: Observe = (...call) => context.telemetry.call(...call);
    addService(server, cri.RuntimeService, runtimeHandlers(context, streaming), context.log, observe);
    addService(server, cri.ImageService, imageHandlers(context), context.log, observe);
    addService(server, berth.Berth, ownHandlers(context), context.log, observe);
    for (const address of addresses) await bind(server, address, gid);
    return new CriServer(context, server, streaming, addresses);
  }

  /** Ends calls that have not ended by themselves within a second. */
  async close(): Promise<void> {
    this.#context.events.close();
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#server.tryShutdown(() => resolve());
    const timer = setTimeout(() => this.#server.forceShutdown(), 1000);
    await promise;
    clearTimeout(timer);
    await this.#streaming.close();
    for (const address of this.#addresses) await rm(address, { force: true });
  }
}

async function bind(server: Server, address: string, gid: number): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  // From its first moment on the socket is root's alone.
  const umask = process.umask(0o177);
  server.bindAsync(`unix:${address}`, ServerCredentials.createInsecure(), (error) =>
    error ? reject(error) : resolve(),
  );
  try {
    await promise;
  } finally {
    process.umask(umask);
  }
  if (gid !== 0) await chown(address, 0, gid);
  await chmod(address, gid === 0 ? 0o600 : 0o660);
}

async function clearSocket(address: string): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<boolean>();
  const probe = connect(address, () => resolve(true)).on("error", (error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT" || error.code === "ECONNREFUSED") resolve(false);
    else reject(error);
  });
  const alive = await promise;
  probe.destroy();
  if (alive) throw new Error(`another daemon serves ${address}; stop it first, or choose another --address`);
  await rm(address, { force: true });
}
