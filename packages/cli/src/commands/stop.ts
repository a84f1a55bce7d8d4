import type { Command } from "commander";
import { eachOf } from "../each.ts";
import { Failure } from "../failure.ts";
import { findContainer } from "../names.ts";
import type { Session } from "../session.ts";
import { printLine } from "../shell.ts";

const DEFAULT_GRACE = "10";

export function define(command: Command, session: Session): void {
  command
    .usage("[options] CONTAINER...")
    .argument("<container...>", "names, ids, or beginnings of ids")
    .option("-t, --time <seconds>", "how long to wait before killing", DEFAULT_GRACE)
    .addHelpText(
      "after",
      "\nSends the container's stop signal (TERM unless it says otherwise), waits, and kills what is left.",
    )
    .action((names: string[], { time }: { time: string }) => stop(session, names, parseSeconds(time, "-t")));
}

export function parseSeconds(text: string, option: string): bigint {
  if (!/^\d{1,9}$/.test(text)) throw new Failure(`${option}: "${text}" is not a whole number of seconds`);
  return BigInt(text);
}

async function stop(session: Session, names: readonly string[], timeout: bigint): Promise<void> {
  const client = await session.connect();
  await eachOf(session, names, async (name) => {
    const { id: containerId } = await findContainer(client, name);
    await client.runtime.stopContainer({ containerId, timeout });
    printLine(session.shell, name);
  });
}
