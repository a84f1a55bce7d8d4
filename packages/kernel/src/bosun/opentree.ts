/** Connections to `bosun serve` by its socket alone: what a worker thread has, where the Hand is the main thread's. */
import { PLAN_VERSION } from "../orders/table.ts";
import { expect } from "./answers.ts";
import { Connection } from "./client.ts";
import { HandLost } from "./errors.ts";
import type { CallOptions, TreeWriter } from "./hand.ts";
import { TreeClient } from "./tree.ts";

/** A connection that has said hello. Rejects with HandLost. */
export async function greet(socket: string): Promise<Connection> {
  const connection = await Connection.open(socket, (reason) => new HandLost(`bosun serve: ${reason}`));
  try {
    const { version } = expect(await connection.request("hello", { version: PLAN_VERSION }), "welcome", "hello");
    if (version !== PLAN_VERSION)
      throw new HandLost(`bosun serve speaks version ${version}, berth ${PLAN_VERSION}: build bosun again`);
    return connection;
  } catch (error) {
    connection.close();
    throw error;
  }
}

/** As Hand.tree, over a connection of its own to the serve that listens on `socket`. */
export async function openTree(socket: string, path: string, options?: CallOptions): Promise<TreeWriter> {
  const connection = await greet(socket);
  try {
    // The stream lasts as long as its layer: the deadline is for "go" alone.
    expect(await connection.request("tree", { path }, options), "report", `tree ${path}`);
  } catch (error) {
    connection.close();
    throw error;
  }
  return new TreeClient(connection.detach(), path);
}
