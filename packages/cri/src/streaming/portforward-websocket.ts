/**
 * Port-forward over the channels of a WebSocket, the oldest way: the ports are those of the request, each with a data and an error
 * channel, and one connection each. Both channels begin with the port's number, 16 bits, little-endian.
 */
import type { Duplex } from "node:stream";
import { forward } from "./forward.ts";
import type { PortForwardOptions } from "./portforward-spdy.ts";
import type { WebSocketChannels } from "./websocket-channels.ts";

export const PORT_FORWARD_WEBSOCKET_PROTOCOLS: readonly string[] = ["v4.channel.k8s.io", "v4.base64.channel.k8s.io"];

export async function forwardChannels(
  channels: WebSocketChannels,
  ports: readonly number[],
  options: PortForwardOptions,
): Promise<void> {
  const one = async (port: number, data: Duplex, error: Duplex): Promise<void> => {
    const number = Buffer.alloc(2);
    number.writeUInt16LE(port);
    data.write(number);
    error.write(number);
    error.resume();
    try {
      await forward(data, await options.dial(port));
    } catch (failure) {
      const why = failure instanceof Error ? failure.message : String(failure);
      error.write(`error forwarding port ${port} to pod ${options.sandboxId}, uid : ${why}`);
      data.resume();
    }
  };
  const all = ports.map((port, index) => one(port, channels.channel(index * 2), channels.channel(index * 2 + 1)));
  await Promise.race([Promise.all(all), channels.closed]);
  await channels.close();
}
