/** Sockets of a pod's directory: served to root alone, and connected to. */
import { chmod, rm } from "node:fs/promises";
import { connect, type Server, type Socket } from "node:net";
import { join } from "node:path";
import { withSocketPath } from "./place.ts";

/**
 * Listens until it is disposed of; root alone can connect. What an earlier server left at the path goes. `cut` ends the connections
 * that are open then.
 */
export async function listenForRoot(
  server: Server,
  directory: string,
  name: string,
  cut: () => void,
): Promise<AsyncDisposable> {
  await rm(join(directory, name), { force: true });
  await withSocketPath(directory, name, async (path) => {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    server.once("error", reject).listen(path, resolve);
    await promise;
    server.off("error", reject);
    await chmod(path, 0o600);
  });
  server.unref();
  return {
    [Symbol.asyncDispose]: async () => {
      const closed = Promise.withResolvers<void>();
      server.close(() => closed.resolve());
      cut();
      await closed.promise;
      await rm(join(directory, name), { force: true });
    },
  };
}

/** Rejects with connect(2)'s error. */
export async function connected(path: string): Promise<Socket> {
  const { promise, resolve, reject } = Promise.withResolvers<Socket>();
  const socket = connect({ path, allowHalfOpen: true }, () => {
    socket.off("error", reject);
    resolve(socket);
  }).once("error", reject);
  return await promise;
}
