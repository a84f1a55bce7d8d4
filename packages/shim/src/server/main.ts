/**
 * containerd-shim-berth-v2: the shim by which containerd runs berth's containers. The program that containerd starts is a shell script
 * (bin/), which for `start` gives its standard output as descriptor 3 and goes as soon as that is closed; this process stays, and is
 * the shim. So one Node is started and not two.
 */
import {
  closeSync,
  constants,
  existsSync,
  mkdirSync,
  openSync,
  readFileSync,
  rmSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { probeHost, startHand } from "@berth/kernel";
import { task, taskV3 } from "@berth/spec/shim";
import { TtrpcClient, TtrpcServer } from "@berth/ttrpc";
import { groupOf, type Invocation, optionsOf, parseArguments } from "./arguments.ts";
import type { Machine } from "./container.ts";
import { handDir, socketPath, stateDir } from "./place.ts";
import { Publisher } from "./publisher.ts";
import { Tasks } from "./tasks.ts";

const VERSION = "2.0";
const NAME = "containerd-shim-berth-v2";
/** Where `start` answers. */
const ANSWER_FD = 3;
const JSON_SINCE = 3;

const bosun = process.env["BERTH_BOSUN"] ?? join(import.meta.dirname, "../../../../.build/native/bosun");

async function main(): Promise<void> {
  const invocation = parseArguments(process.argv.slice(2), process.cwd());
  if (invocation.version) return void process.stdout.write(`${NAME}:\n  Version:  ${VERSION}\n`);
  for (const name of ["namespace", "id"] as const)
    if (invocation[name] === "") throw new Error(`shim ${name} cannot be empty`);
  if (invocation.action === "start") return await start(invocation);
  if (invocation.action === "delete") return await remove(invocation);
  throw new Error(`unknown action "${invocation.action}"; containerd says start and delete`);
}

async function remove(invocation: Invocation): Promise<void> {
  const directory = `${handDir(stateDir(invocation.address, invocation.namespace, invocation.id))}-delete`;
  const hand = await startHand({ bosun, state: directory });
  const { deleteLeft } = await import("./delete.ts");
  try {
    process.stdout.write(await deleteLeft({ hand, host: await probeHost() }, invocation));
    await removeDead(invocation);
  } finally {
    await hand.close();
    rmSync(directory, { recursive: true, force: true });
  }
}

/** What belonged to the shim itself, if it is the dead one: containerd also asks this for a container whose creation failed. */
async function removeDead(invocation: Invocation): Promise<void> {
  if (!existsSync(join(invocation.bundle, "config.json"))) return;
  const socket = socketPath(invocation.address, invocation.namespace, groupOf(invocation));
  if (await isServed(socket)) return;
  rmSync(handDir(socket), { recursive: true, force: true });
  rmSync(socket, { force: true });
}

async function start(invocation: Invocation): Promise<void> {
  const { address, namespace, bundle } = invocation;
  const socket = socketPath(address, namespace, groupOf(invocation));
  const options = optionsOf(readFileSync(0));
  if (!(await isServed(socket))) await serve(invocation, socket, options);
  writeFileSync(join(bundle, "address"), `unix://${socket}`);
  const newest = Number(process.env["MAX_SHIM_VERSION"] ?? 2);
  const answer = JSON.stringify({ version: JSON_SINCE, address: `unix://${socket}`, protocol: "ttrpc" });
  writeSync(ANSWER_FD, newest >= JSON_SINCE ? answer : `unix://${socket}`);
  closeSync(ANSWER_FD);
}

async function isServed(socket: string): Promise<boolean> {
  try {
    (await TtrpcClient.connect(socket)).close();
    return true;
  } catch (error) {
    if (["ENOENT", "ECONNREFUSED"].includes((error as NodeJS.ErrnoException).code ?? "")) return false;
    throw error;
  }
}

async function serve(
  { address, namespace, bundle }: Invocation,
  socket: string,
  options: ReturnType<typeof optionsOf>,
): Promise<void> {
  const log = logger(bundle);
  const publisher = new Publisher(process.env["TTRPC_ADDRESS"] ?? "", namespace, log);
  mkdirSync(dirname(socket), { recursive: true, mode: 0o711 });
  // Goes on while containerd connects: the first call that needs it waits.
  const machine = openMachine(socket, log);
  machine.catch((error: Error) => log(error.message));
  const server = new TtrpcServer();
  const onShutdown = (): void => void end(server, machine, publisher, socket);
  const dirOf = (id: string): string => stateDir(address, namespace, id);
  const tasks = new Tasks({ machine, publisher, options, dirOf, onShutdown });
  // The same messages, whichever name it is asked by.
  server.add(task.Task, tasks).add(taskV3.Task, tasks);
  await server.listen(socket);
  // A bundle that is somebody's working directory could not be unmounted.
  process.chdir("/");
  for (const signal of ["SIGTERM", "SIGINT", "SIGHUP", "SIGPIPE"] as const) process.on(signal, () => undefined);
  process.on("uncaughtException", (error) => log(error.stack ?? error.message));
}

async function openMachine(socket: string, log: (message: string) => void): Promise<Machine> {
  const state = handDir(socket);
  const [hand, host] = await Promise.all([startHand({ bosun, state, log }), probeHost()]);
  return { hand, host, cache: join(dirname(state), "seccomp"), log };
}

/** The answer to Shutdown is on its way: what is written before the connections end. */
async function end(
  server: TtrpcServer,
  machine: Promise<Machine>,
  publisher: Publisher,
  socket: string,
): Promise<void> {
  await publisher.settled;
  publisher.close();
  await (await machine).hand.close();
  rmSync(handDir(socket), { recursive: true, force: true });
  await server.close();
  rmSync(socket, { force: true });
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

main().catch((error: Error) => {
  process.stderr.write(`${NAME}: ${error.message}\n`);
  process.exit(1);
});
