/**
 * The command line of a shim's program. What containerd starts is a shell script (bin/), which for `start` reads descriptors 3 and 2
 * to their end and goes; this process stays, and is the shim. So one Node is started and not two. Whoever
 * starts a container waits for the address: what serves is loaded when that has been told, and connections wait for it.
 */
import { closeSync, mkdirSync, openSync, readFileSync, rmSync, writeFileSync, writeSync } from "node:fs";
import { connect, createServer, type Server, type Socket } from "node:net";
import { dirname, join } from "node:path";
import { groupOf, type Invocation, parseArguments } from "./arguments.ts";
import { socketPath } from "./place.ts";
import type { Parts } from "./serve.ts";

export const VERSION = "2.0";
/** Where `start` answers. */
const ANSWER_FD = 3;
const STDERR_FD = 2;
const JSON_SINCE = 3;
/** Listening and serving: connections that come in between. */
const BACKLOG = 128;

export interface Program {
  /** As containerd calls it. */
  readonly name: string;
  readonly parts: () => Promise<Parts>;
}

/** A socket that is bound, and what has connected to it so far. */
export interface Listening {
  readonly path: string;
  readonly server: Server;
  /** From now on each connection is `take`'s. */
  taken(take: (connection: Socket) => void): void;
}

export async function runProgram(program: Program): Promise<void> {
  try {
    await run(program);
  } catch (error) {
    process.stderr.write(`${program.name}: ${(error as Error).message}\n`);
    process.exit(1);
  }
}

async function run(program: Program): Promise<void> {
  const invocation = parseArguments(process.argv.slice(2), process.cwd());
  const { name } = program;
  if (invocation.version) return void process.stdout.write(`${name}:\n  Version:  ${VERSION}\n`);
  if (invocation.info) return void process.stdout.write(await (await import("./info.ts")).runtimeInfo(program));
  for (const field of ["namespace", "id"] as const)
    if (invocation[field] === "") throw new Error(`shim ${field} cannot be empty`);
  if (invocation.action === "start") return await start(program, invocation);
  if (invocation.action === "delete") return await (await import("./delete.ts")).remove(program, invocation);
  throw new Error(`unknown action "${invocation.action}"; containerd says start and delete`);
}

async function start(program: Program, invocation: Invocation): Promise<void> {
  const { address, namespace, bundle } = invocation;
  const socket = socketPath(address, namespace, groupOf(invocation));
  const options = readFileSync(0);
  const listening = (await isServed(socket)) ? undefined : await listen(socket);
  writeFileSync(join(bundle, "address"), `unix://${socket}`);
  const newest = Number(process.env["MAX_SHIM_VERSION"] ?? 2);
  const answer = JSON.stringify({ version: JSON_SINCE, address: `unix://${socket}`, protocol: "ttrpc" });
  writeSync(ANSWER_FD, newest >= JSON_SINCE ? answer : `unix://${socket}`);
  closeSync(ANSWER_FD);
  // The script waits for the end of both; what is opened next gets the number.
  closeSync(STDERR_FD);
  openSync("/dev/null", "w");
  if (listening) (await import("./serve.ts")).serve(program, invocation, listening, options);
}

export async function isServed(socket: string): Promise<boolean> {
  const { promise, resolve, reject } = Promise.withResolvers<boolean>();
  const connection = connect(socket, () => resolve(true));
  connection.on("error", (error: NodeJS.ErrnoException) => {
    if (["ENOENT", "ECONNREFUSED"].includes(error.code ?? "")) resolve(false);
    else reject(error);
  });
  try {
    return await promise;
  } finally {
    connection.destroy();
  }
}

async function listen(path: string): Promise<Listening> {
  mkdirSync(dirname(path), { recursive: true, mode: 0o711 });
  rmSync(path, { force: true });
  const waiting: Socket[] = [];
  let take = (connection: Socket): void => void waiting.push(connection);
  const server = createServer({ allowHalfOpen: true, pauseOnConnect: true }, (connection) => take(connection));
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const mask = process.umask(0o177);
  try {
    server.once("error", reject).listen({ path, backlog: BACKLOG }, resolve);
    await promise;
  } finally {
    process.umask(mask);
  }
  return {
    path,
    server,
    taken: (now) => {
      take = (connection) => {
        now(connection);
        connection.resume();
      };
      for (const connection of waiting.splice(0)) take(connection);
    },
  };
}
