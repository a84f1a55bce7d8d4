import type { Command } from "commander";
import { cri } from "@berth/spec";
import type { Client } from "../client.ts";
import { Failure } from "../failure.ts";
import { readLogBatches, type ReadLogOptions } from "../logs/reader.ts";
import { LogWriter } from "../logs/writer.ts";
import { containerName, findContainer } from "../names.ts";
import type { Session } from "../session.ts";
import type { Shell } from "../shell.ts";
import { parseMoment } from "../units.ts";
import { ContainerGone, waitForExit } from "../wait.ts";

interface Flags {
  readonly follow?: boolean;
  readonly timestamps?: boolean;
  readonly tail: string;
  readonly since?: string;
}

const HELP = `
What the container wrote to stdout goes to stdout, what it wrote to stderr to stderr, byte for byte.

Examples:
  berth logs -f --tail 20 web        the last 20 lines and what follows, until the container ends
  berth logs --since 10m -t web      the last ten minutes, with times`;

export function define(command: Command, session: Session): void {
  command
    .usage("[options] CONTAINER")
    .argument("<container>", "name, id, or beginning of an id")
    .option("-f, --follow", "go on as more is written, until the container ends")
    .option("-t, --timestamps", "put its time before each line")
    .option("-n, --tail <lines>", "only the last lines; all: everything", "all")
    .option("--since <time>", "only what is younger: 10m, 2026-01-02T15:04:05Z, or a unix time")
    .addHelpText("after", HELP)
    .action((container: string, flags: Flags) => logs(session, container, flags));
}

async function logs(session: Session, text: string, flags: Flags): Promise<void> {
  const { shell } = session;
  const since = flags.since === undefined ? undefined : parseMoment(flags.since, "--since", Date.now());
  const tail = parseTail(flags.tail);
  const client = await session.connect();
  const container = await findContainer(client, text);
  const { status } = await client.runtime.containerStatus({ containerId: container.id });
  if (!status?.logPath)
    throw new Failure(`container ${containerName(container)} has no log: its maker named no file for it`);
  const follow = flags.follow ? untilEnd(client, container.id) : undefined;
  await print(shell, status, { tail, since, follow: follow?.signal }, flags.timestamps === true);
  await follow?.checked;
}

function parseTail(text: string): number | undefined {
  if (text === "all" || text === "-1") return undefined;
  if (!/^\d{1,9}$/.test(text)) throw new Failure(`--tail: "${text}" is neither a number of lines nor "all"`);
  return Number(text);
}

/** Aborts `signal` when the container has ended (or can no longer be asked after: `checked` then rejects). */
function untilEnd(client: Client, containerId: string): { signal: AbortSignal; checked: Promise<void> } {
  const controller = new AbortController();
  const checked = waitForExit(client, containerId).then(
    () => controller.abort(),
    (error: unknown) => {
      controller.abort();
      // Removed is ended, too: as `run --rm` does it at the end.
      if (!(error instanceof ContainerGone)) throw error;
    },
  );
  // It is awaited when the log has been read to its end.
  checked.catch(() => undefined);
  return { signal: controller.signal, checked };
}

async function print(
  shell: Shell,
  status: cri.ContainerStatus,
  options: ReadLogOptions,
  timestamps: boolean,
): Promise<void> {
  const writer = new LogWriter(shell, timestamps);
  try {
    for await (const batch of readLogBatches(status.logPath, options)) await writer.write(batch);
  } catch (error) {
    const { code, path } = error as NodeJS.ErrnoException;
    if (path === undefined) throw error;
    if (code === "ENOENT" && status.state === cri.ContainerState.CONTAINER_CREATED) return;
    const hint = code === "EACCES" ? ": run berth as root (sudo berth …)" : code === "ENOENT" ? ": it was removed" : "";
    throw new Failure(`cannot read the log ${status.logPath} (${code})${hint}`, undefined, { cause: error });
  }
}
