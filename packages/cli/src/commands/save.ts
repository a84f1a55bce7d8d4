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
  readonly platform?: string;
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
    .option("--platform <os/arch>", "refuse images that are here for another platform")
    .addHelpText("after", HELP)
    .action((images: string[], flags: Flags) => save(session, images, flags));
}

async function save(session: Session, images: readonly string[], { output, platform = "" }: Flags): Promise<void> {
  const { shell } = session;
  if (output === undefined && shell.stdout.isTTY)
    throw new Failure("an archive is not written to a terminal: use -o, or redirect stdout");
  const client = await session.connect();
  using interrupt = interruptible(shell);
  const target = output === undefined ? shell.stdout : createWriteStream(output);
  try {
    await pipeline(chunks(client, { images: [...images], platform }, interrupt.signal), target, {
      end: output !== undefined,
    });
  } catch (error) {
    if (output !== undefined) await rm(output, { force: true });
    throw interrupt.signal.aborted ? interrupt.signal.reason : error;
  }
}

async function* chunks(
  client: Client,
  request: { readonly images: string[]; readonly platform: string },
  signal: AbortSignal,
): AsyncGenerator<Uint8Array> {
  for await (const { chunk } of client.berth.save(request, { signal })) yield chunk;
}
