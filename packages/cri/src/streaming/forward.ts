/** One forwarded connection: bytes both ways, each direction ended when its sender ends it. */
import type { Socket } from "node:net";
import type { Duplex } from "node:stream";

/** Settles when both directions have ended, or the client has gone. A port that is reset reads as ended. */
export async function forward(client: Duplex, port: Socket): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  port.on("error", () => port.destroy());
  port.on("close", () => {
    client.unpipe(port);
    client.resume();
    client.end();
    resolve();
  });
  client.on("close", () => port.destroy());
  if (client.destroyed) port.destroy();
  client.pipe(port);
  port.pipe(client);
  await promise;
}
