import { createWriteStream } from "node:fs";
import { rm } from "node:fs/promises";
import { pipeline } from "node:stream/promises";
import type { Command } from "commander";
import type { Client } from "../client.ts";
import { Failure } from "../failure.ts";
import { interruptible } from "../interrupt.ts";
import type { Session } from "../session.ts";

interface Flags {
  readonly output?: string;
}

const HELP = `
Writes an archive that "docker load", "nerdctl load" and "berth load" take; it is an OCI layout too.

Examples:
  berth save -o images.tar app db:16
  berth save app | ssh other berth load`;

export function define(command: Command, session: Session): void {
  command
    .usage("[options] IMAGE [IMAGE...]")
    .argument("<image...>", "names or ids of images")
    .option("-o, --output <file>", "the archive (default: stdout)")
    .addHelpText("after", HELP)
    .action((images: string[], flags: Flags) => save(session, images, flags));
}

async function save(session: Session, images: readonly string[], { output }: Flags): Promise<void> {
  const { shell } = session;
  if (output === undefined && shell.stdout.isTTY)
    throw new Failure("an archive is not written to a terminal: use -o, or redirect stdout");
  const client = await session.connect();
  using interrupt = interruptible(shell);
  const target = output === undefined ? shell.stdout : createWriteStream(output);
  try {
    await pipeline(chunks(client, images, interrupt.signal), target, { end: output !== undefined });
  } catch (error) {
    if (output !== undefined) await rm(output, { force: true });
    throw interrupt.signal.aborted ? interrupt.signal.reason : error;
  }
}

async function* chunks(client: Client, images: readonly string[], signal: AbortSignal): AsyncGenerator<Uint8Array> {
  for await (const { chunk } of client.berth.save({ images: [...images] }, { signal })) yield chunk;
}
