import { readFile } from "node:fs/promises";
import type { Command } from "commander";
import { cgroupDirectories, probeCgroups, processesBelow } from "@berth/kernel";
import { Failure } from "../failure.ts";
import { containerName, findContainer } from "../names.ts";
import type { Session } from "../session.ts";
import { formatTable } from "../table.ts";

const HELP = `
The processes of a container as the host sees them: their numbers are the host's.`;

export function define(command: Command, session: Session): void {
  command
    .usage("CONTAINER")
    .argument("<container>", "a name, id, or the beginning of an id")
    .addHelpText("after", HELP)
    .action((name: string) => top(session, name));
}

interface Process {
  readonly uid: string;
  readonly pid: number;
  readonly ppid: string;
  /** Seconds of CPU. */
  readonly time: number;
  readonly command: string;
}

async function top(session: Session, name: string): Promise<void> {
  const client = await session.connect();
  const container = await findContainer(client, name);
  const { info } = await client.runtime.containerStatus({ containerId: container.id, verbose: true });
  const { pid = 0, runtimeSpec } = JSON.parse(info["info"] ?? "{}") as {
    pid?: number;
    runtimeSpec?: { linux?: { cgroupsPath?: string } };
  };
  const path = runtimeSpec?.linux?.cgroupsPath;
  if (pid === 0 || path === undefined) throw new Failure(`container ${containerName(container)} is not running`);
  const { unified, v1 } = cgroupDirectories(path, probeCgroups());
  const pids = await processesBelow(unified ?? v1[0]?.directory ?? "");
  const processes = (await Promise.all(pids.map(processOf))).filter((process) => process !== undefined);
  session.shell.stdout.write(
    formatTable(
      [
        { title: "UID", value: ({ uid }) => uid },
        { title: "PID", value: (process) => String(process.pid) },
        { title: "PPID", value: ({ ppid }) => ppid },
        { title: "TIME", value: ({ time }) => clock(time) },
        { title: "CMD", value: ({ command }) => command },
      ],
      processes.sort((a, b) => a.pid - b.pid),
    ),
  );
}

/** Clock ticks in a second, as /proc counts them. */
const TICKS = 100;

/** undefined: it has ended meanwhile. */
async function processOf(pid: number): Promise<Process | undefined> {
  try {
    const [status, stat, cmdline] = await Promise.all(
      ["status", "stat", "cmdline"].map((file) => readFile(`/proc/${pid}/${file}`, "utf8")),
    );
    const field = (key: string): string => new RegExp(`^${key}:\\s+(\\S+)`, "m").exec(status ?? "")?.[1] ?? "";
    // proc_pid_stat(5): utime and stime are fields 14 and 15, the third being the first after the name.
    const fields = (stat ?? "").slice((stat ?? "").lastIndexOf(")") + 2).split(" ");
    const words = (cmdline ?? "").split("\0").join(" ").trim();
    return {
      uid: field("Uid"),
      pid,
      ppid: field("PPid"),
      time: (Number(fields[11]) + Number(fields[12])) / TICKS,
      command: words === "" ? `[${field("Name")}]` : words,
    };
  } catch (error) {
    if (["ENOENT", "ESRCH"].includes((error as NodeJS.ErrnoException).code ?? "")) return undefined;
    throw error;
  }
}

/** As ps(1): HH:MM:SS. */
const clock = (seconds: number): string =>
  [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, Math.floor(seconds) % 60]
    .map((part) => String(part).padStart(2, "0"))
    .join(":");
