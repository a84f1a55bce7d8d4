/** berth-vm exec: a shell in a pod's guest, by its debug console. */
import type { Socket } from "node:net";
import { basename, dirname } from "node:path";
import type { Command } from "commander";
import { VmError } from "../errors.ts";
import { askManagement, dial } from "../management/client.ts";
import type { Context } from "./context.ts";
import { sandboxDirectory } from "./sandboxes.ts";

/** Kata's, unless the guest's command line says another. */
const DEBUG_PORT = 1026;
const HANDSHAKE_MS = 10_000;

export function addExec(command: Command, context: Context): void {
  command
    .command("exec [sandbox]")
    .description("enter into guest by debug console")
    .option("--kata-debug-port <port>", "port that debug console is listening on", String(DEBUG_PORT))
    .action(async (sandbox: string | undefined, { kataDebugPort }: { kataDebugPort: string }) => {
      if (!/^\d+$/.test(kataDebugPort))
        throw new VmError("InvalidArgument", `--kata-debug-port: "${kataDebugPort}" is no number`);
      const directory = await sandboxDirectory(context, sandbox);
      const socket = await openConsole(directory, Number(kataDebugPort) || DEBUG_PORT);
      await joined(context, socket);
    });
}

async function openConsole(directory: string, port: number): Promise<Socket> {
  const url = (await askManagement(directory, { path: "/agent-url" })).toString().trim();
  const path = /^hvsock:\/\/(\/.*):\d+$/.exec(url)?.[1];
  if (path === undefined)
    throw new VmError("Unsupported", `the agent is at ${url}; only hybrid vsock (hvsock:///PATH:PORT) is spoken here`);
  const socket = await dial(dirname(path), basename(path)).catch((error: Error) => {
    throw new VmError("Guest", `${path}: ${error.message}`, { cause: error });
  });
  socket.write(`CONNECT ${port}\n`);
  const line = await firstLine(socket);
  if (line.startsWith("OK")) return socket;
  socket.destroy();
  throw new VmError("Guest", line === "" ? `nobody in the guest listens on port ${port}` : line.replace(/^ERR /, ""));
}

/** Up to its end; what comes behind it stays in the socket. "": there was none. */
async function firstLine(socket: Socket): Promise<string> {
  socket.setTimeout(HANDSHAKE_MS, () => socket.destroy());
  let line = "";
  try {
    for (;;) {
      const byte = (socket.read(1) as Buffer | null)?.toString("latin1");
      if (byte === "\n") return line;
      if (byte !== undefined) line += byte;
      else if (socket.readableEnded || socket.destroyed) return line;
      else await readable(socket);
    }
  } finally {
    socket.setTimeout(0);
  }
}

async function readable(socket: Socket): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  const events = ["readable", "end", "close", "error"];
  const done = (): void => resolve();
  for (const event of events) socket.once(event, done);
  await promise;
  for (const event of events) socket.off(event, done);
}

/** Until the shell ends. A terminal's keys go to the guest as they are. */
async function joined({ io }: Context, socket: Socket): Promise<void> {
  const { stdin } = io;
  const isTerminal = stdin?.isTTY === true;
  if (isTerminal) stdin.setRawMode?.(true);
  try {
    stdin?.pipe(socket);
    socket.on("error", () => {});
    for await (const chunk of socket as AsyncIterable<Buffer>) io.stdout.write(chunk);
  } finally {
    if (isTerminal) stdin.setRawMode?.(false);
    stdin?.unpipe(socket);
    stdin?.pause();
    socket.destroy();
  }
}
