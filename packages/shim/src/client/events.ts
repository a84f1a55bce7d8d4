/** What shims tell: containerd's event service, and the events that berth looks at. */
import { events, forward } from "@berth/spec/shim";
import { unpackMessage } from "../any.ts";
import { TtrpcServer } from "@berth/ttrpc";

export interface EventListener {
  /** A process of the container was killed for memory. */
  onOom(containerId: string): void;
}

/** Serves TTRPC_ADDRESS. */
export async function serveEvents(path: string, listener: EventListener): Promise<TtrpcServer> {
  const server = new TtrpcServer().add(forward.Events, {
    forward: ({ envelope }) => {
      const oom = unpackMessage(envelope?.event, events.TaskOOMSchema);
      if (oom) listener.onOom(oom.containerId);
      return Promise.resolve({});
    },
  });
  await server.listen(path);
  return server;
}
