/** Connections of their own to `bosun serve`, by its socket alone: a worker thread has nothing else, and a stream needs one. */
import type { Socket } from "node:net";
import { PLAN_VERSION } from "../orders/table.ts";
import { expect } from "./answers.ts";
import { Connection, connectTo } from "./client.ts";
import { HandLost } from "./errors.ts";
import type { CallOptions, TreeWriter } from "./hand.ts";
import type { Reach } from "./reach.ts";
import { TreeClient } from "./tree.ts";

/** A connection that has said hello. Rejects with HandLost. */
export async function greet(socket: string, reach: Reach = connectTo): Promise<Connection> {
  const connection = await Connection.open(socket, (reason) => new HandLost(`bosun serve: ${reason}`), reach);
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
export async function openTree(
  socket: string,
  path: string,
  options?: CallOptions,
  reach?: Reach,
): Promise<TreeWriter> {
  const connection = await greet(socket, reach);
  // The stream lasts as long as its layer: the deadline is for "go" alone.
  return new TreeClient(await connection.takeOver("tree", { path }, `tree ${path}`, options), path);
}

/** As Hand.dial, over a connection of its own to the serve that listens on `socket`. */
export async function dial(
  socket: string,
  netns: string,
  port: number,
  options?: CallOptions,
  reach?: Reach,
): Promise<Socket> {
  const connection = await greet(socket, reach);
  return await connection.takeOver("dial", { netns, port }, `dial port ${port} in ${netns}`, options);
}
