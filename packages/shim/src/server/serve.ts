/** The shim itself: the Task service at a socket that is bound already, until it is told to end. */
import { constants, openSync, rmSync, writeSync } from "node:fs";
import { dirname, join } from "node:path";
import type { Any } from "@bufbuild/protobuf/wkt";
import { probeHost, startHand } from "@berth/kernel";
import { task, taskV3 } from "@berth/spec/shim";
import { TtrpcServer } from "@berth/ttrpc";
import type { Invocation } from "./arguments.ts";
import { handlerOptions } from "./bootstrap.ts";
import type { Machine, Maker } from "./making.ts";
import { measured } from "./measured.ts";
import { bosun, handDir, stateDir } from "./place.ts";
import type { Listening, Program } from "./program.ts";
import { Publisher } from "./publisher.ts";
import { Tasks } from "./tasks.ts";

/** What one kind of shim is, beside what all are. */
export interface Parts {
  /** `options`: of the handler, as containerd has encoded them; undefined: none. */
  readonly open: (machine: Machine, invocation: Invocation, options: Any | undefined) => Promise<Maker>;
  /** What the runtime can do (runtime-spec, features.md). */
  readonly features: () => Record<string, unknown>;
  /** What a shim that has died left of a container. Idempotent. */
  readonly deleteLeft: (machine: Pick<Machine, "hand" | "host">, invocation: Invocation) => Promise<void>;
}

export function serve(program: Program, invocation: Invocation, listening: Listening, stdin: Uint8Array): void {
  const { address, namespace, bundle } = invocation;
  const log = logger(bundle);
  const publisher = new Publisher(process.env["TTRPC_ADDRESS"] ?? "", namespace, log);
  const maker = open(program, invocation, listening.path, stdin, log);
  // The first call that needs it says so too.
  maker.catch((error: Error) => log(error.message));
  const server = new TtrpcServer();
  const onShutdown = (): void => void end(server, maker, publisher, listening);
  const dirOf = (id: string): string => stateDir(address, namespace, id);
  const tasks = measured(new Tasks({ maker, publisher, dirOf, onShutdown }), maker);
  // The same messages, whichever name it is asked by.
  server.add(task.Task, tasks).add(taskV3.Task, tasks);
  listening.taken((connection) => server.serve(connection));
  // A bundle that is somebody's working directory could not be unmounted.
  process.chdir("/");
  for (const signal of ["SIGTERM", "SIGINT", "SIGHUP", "SIGPIPE"] as const) process.on(signal, () => undefined);
  process.on("uncaughtException", (error) => log(error.stack ?? error.message));
}

async function open(
  program: Program,
  invocation: Invocation,
  socket: string,
  stdin: Uint8Array,
  log: (message: string) => void,
): Promise<Maker> {
  const state = handDir(socket);
  const [parts, hand, host] = await Promise.all([program.parts(), startHand({ bosun, state, log }), probeHost()]);
  const machine = { hand, host, cache: join(dirname(state), "seccomp"), log };
  return await parts.open(machine, invocation, handlerOptions(stdin, invocation));
}

/** The answer to Shutdown is on its way: what is written before the connections end. */
async function end(
  server: TtrpcServer,
  maker: Promise<Maker>,
  publisher: Publisher,
  { path, server: listener }: Listening,
): Promise<void> {
  await publisher.settled;
  publisher.close();
  // One that could not be opened has told why, and has nothing to close.
  const opened = await maker.catch(() => undefined);
  await opened?.close();
  await opened?.machine.hand.close();
  rmSync(handDir(path), { recursive: true, force: true });
  listener.close();
  await server.close();
  rmSync(path, { force: true });
  process.exit(0);
}

/** To containerd, in the form that it passes on; it may not listen, and need not. */
function logger(bundle: string): (message: string) => void {
  let fd: number | undefined;
  try {
    fd = openSync(join(bundle, "log"), constants.O_RDWR | constants.O_NONBLOCK);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
  }
  return (message) => {
    if (fd === undefined) return;
    const line = `time="${new Date().toISOString()}" level=warning msg=${JSON.stringify(message)}\n`;
    try {
      writeSync(fd, line);
    } catch {
      // Nobody reads: there is no better place to say so.
    }
  };
}
