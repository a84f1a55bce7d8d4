import { createReadStream } from "node:fs";
import { stat } from "node:fs/promises";
import type { Readable } from "node:stream";
import type { Command } from "commander";
import type { MessageInitShape } from "@bufbuild/protobuf";
import type { berth } from "@berth/spec";
import { Failure } from "../failure.ts";
import { interruptible } from "../interrupt.ts";
import { printJson } from "../json.ts";
import type { Session } from "../session.ts";
import { printLine, type Shell } from "../shell.ts";

interface Flags {
  readonly input: string;
  readonly quiet?: boolean;
  readonly json?: boolean;
  readonly name?: string;
  readonly platform?: string;
}

const HELP = `
Reads what "docker save", "nerdctl save" or "skopeo copy … oci-archive:" write: a docker archive or an OCI layout, plain, gzip or zstd.

Examples:
  berth load -i image.tar
  docker save app | berth load`;

export function define(command: Command, session: Session): void {
  command
    .usage("[options]")
    .option("-i, --input <file>", "the archive; - is stdin", "-")
    .option("-q, --quiet", "print nothing")
    .option("--name <reference>", "name for an image that the archive does not name")
    .option("--platform <os/arch>", "of an image for several platforms the one for this (default: this machine's)")
    .option("--json", "print the result as JSON: a list of id and references")
    .addHelpText("after", HELP)
    .action((flags: Flags) => load(session, flags));
}

async function load(session: Session, { input, quiet, json, name = "", platform = "" }: Flags): Promise<void> {
  const { shell } = session;
  const archive = await openArchive(shell, input);
  const client = await session.connect();
  using interrupt = interruptible(shell);
  try {
    const { images } = await client.berth.import(requests(archive, { name, platform }), { signal: interrupt.signal });
    if (json)
      return printJson(
        shell,
        images.map(({ id, references }) => ({ id, references })),
      );
    if (quiet) return;
    for (const { id, references } of images)
      printLine(shell, `Loaded image: ${references.length > 0 ? references.join(", ") : id}`);
  } catch (error) {
    throw interrupt.signal.aborted ? interrupt.signal.reason : error;
  } finally {
    archive.destroy();
  }
}

async function openArchive(shell: Shell, input: string): Promise<Readable> {
  if (input === "-") {
    if (shell.stdin.isTTY)
      throw new Failure("an archive is expected on stdin, and this is a terminal: name a file with -i");
    return shell.stdin;
  }
  const stats = await stat(input).catch((error: Error) => {
    throw new Failure(`cannot read ${input}: ${error.message}`, undefined, { cause: error });
  });
  if (stats.isDirectory())
    throw new Failure(`${input} is a directory: an archive of it is needed, as "tar -C ${input} -c ." makes`);
  return createReadStream(input, { highWaterMark: CHUNK });
}

/** Bytes; far below what one gRPC message may hold. */
const CHUNK = 256 << 10;

async function* requests(
  archive: Readable,
  first: MessageInitShape<typeof berth.ImportRequestSchema>,
): AsyncGenerator<MessageInitShape<typeof berth.ImportRequestSchema>> {
  yield first;
  for await (const chunk of archive) yield { chunk: chunk as Uint8Array<ArrayBuffer> };
}
