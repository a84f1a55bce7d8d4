/** start: whoever waits at the container's FIFO goes on to its program. */
import { close, open, openSync, closeSync, read, rmSync, constants } from "node:fs";
import { promisify } from "node:util";
import type { Command } from "../command/context.ts";
import { CommandError } from "../command/failure.ts";
import type { ContainerRecord, StateDirectory } from "../state/record.ts";
import { isAlive, statusOf } from "../state/status.ts";

const ALIVE_EVERY_MS = 100;

export const command: Command = {
  async run({ args: [id = ""], states, front }) {
    const record = states.read(id);
    const status = statusOf(record, states);
    switch (status) {
      case "created":
        if (process.env.NOTIFY_SOCKET) {
          const { awaitAnnouncement } = await import("../command/notify.ts");
          awaitAnnouncement(states, record.id, await front(), record.init_process_pid);
        }
        await startContainer(record, states);
        if ((record.berth.spec.hooks?.poststart ?? []).length > 0) {
          const { runPoststart } = await import("../command/hooks.ts");
          runPoststart(record, states, await front());
        }
        return 0;
      case "stopped":
        throw new CommandError("cannot start a container that has stopped");
      case "running":
        throw new CommandError("cannot start an already running container");
      default:
        throw new CommandError(`cannot start a container in the ${status} state`);
    }
  },
};

/** Throws CommandError where the process has died meanwhile. */
async function startContainer(record: ContainerRecord, states: StateDirectory): Promise<void> {
  const fifo = states.fifo(record.id);
  const timer = setInterval(() => {
    if (!isAlive(record)) giveUp(fifo);
  }, ALIVE_EVERY_MS);
  try {
    const fd = await promisify(open)(fifo, "r");
    const { bytesRead } = await promisify(read)(fd, Buffer.alloc(1), 0, 1, null);
    await promisify(close)(fd);
    if (bytesRead === 0) throw new CommandError("cannot start an already running container");
  } finally {
    clearInterval(timer);
  }
  rmSync(fifo, { force: true });
}

/** Nobody will ever open the other end: it is opened here, so that the thread that waits for it comes back. */
function giveUp(fifo: string): void {
  try {
    closeSync(openSync(fifo, constants.O_WRONLY | constants.O_NONBLOCK));
  } catch (error) {
    // That thread has not opened its end yet, or is through.
    const { code } = error as NodeJS.ErrnoException;
    if (code !== "ENXIO" && code !== "ENOENT") throw error;
  }
}
