import type { Command } from "commander";
import { familiarReference, InvalidReference, parseReference, type Reference, type cri } from "@berth/spec";
import { shownId } from "../ids.ts";
import { type JsonOptions, printJson, wantsJson } from "../json.ts";
import type { Session } from "../session.ts";
import { printLine } from "../shell.ts";
import { type Column, formatTable } from "../table.ts";
import { humanSize } from "../units.ts";

interface Flags extends JsonOptions {
  readonly quiet?: boolean;
  readonly digests?: boolean;
  readonly trunc: boolean;
}

export function define(command: Command, session: Session): void {
  command
    .usage("[options] [IMAGE]")
    .argument("[image]", "only this one: a repository, or a repository:tag")
    .option("-q, --quiet", "ids only")
    .option("--digests", "also the digests in the registry")
    .option("--no-trunc", "whole ids")
    .option("--json", "a JSON list, for scripts")
    .option("--format <format>", "json or table")
    .addHelpText(
      "after",
      "\n--json prints a list of: id, repoTags, repoDigests, size (bytes), pinned, user.\n\nExample:\n  berth rmi $(berth images -q)",
    )
    .action((image: string | undefined, flags: Flags) => images(session, image, flags));
}

async function images(session: Session, only: string | undefined, flags: Flags): Promise<void> {
  const { shell } = session;
  const json = wantsJson(flags);
  const wanted = only === undefined ? undefined : parseReference(only);
  const client = await session.connect();
  const { images: all } = await client.images.listImages({});
  const rows = all.flatMap(rowsOf).filter(({ reference }) => !wanted || (reference && isSame(reference, wanted)));
  rows.sort((a, b) => a.repository.localeCompare(b.repository) || a.tag.localeCompare(b.tag));
  const chosen = new Set(rows.map(({ image }) => image));
  if (json) return printJson(shell, [...chosen].map(imageJson));
  if (flags.quiet) return chosen.forEach(({ id }) => printLine(shell, shownId(id, !flags.trunc)));
  shell.stdout.write(formatTable(columns(flags), rows));
}

interface Row {
  readonly image: cri.Image;
  /** undefined: nothing names it. */
  readonly reference: Reference | undefined;
  readonly repository: string;
  readonly tag: string;
  readonly digest: string;
}

const NONE = "<none>";

/** One for each tag; one for an image that has none. */
function rowsOf(image: cri.Image): Row[] {
  const digests = image.repoDigests.map((text) => ({
    repository: repositoryName(text),
    digest: text.slice(text.indexOf("@") + 1),
  }));
  const tagged = image.repoTags.map((text): Row => {
    const repository = repositoryName(text);
    const digest = digests.find((candidate) => candidate.repository === repository)?.digest ?? NONE;
    const reference = tryParse(text);
    return { image, reference, repository, tag: reference?.tag ?? NONE, digest };
  });
  if (tagged.length > 0) return tagged;
  const [first] = digests;
  return [
    {
      image,
      reference: tryParse(image.repoDigests[0] ?? ""),
      repository: first?.repository ?? NONE,
      tag: NONE,
      digest: first?.digest ?? NONE,
    },
  ];
}

function repositoryName(text: string): string {
  const reference = tryParse(text);
  return reference ? familiarReference({ domain: reference.domain, path: reference.path }) : text;
}

function tryParse(text: string): Reference | undefined {
  try {
    return parseReference(text);
  } catch (error) {
    // Another runtime may hold images by names that are no references.
    if (error instanceof InvalidReference) return undefined;
    throw error;
  }
}

const isSame = (a: Reference, b: Reference): boolean =>
  a.domain === b.domain && a.path === b.path && (b.tag === undefined || a.tag === b.tag);

function columns({ digests = false, trunc }: Flags): Column<Row>[] {
  return [
    { title: "REPOSITORY", value: ({ repository }) => repository },
    { title: "TAG", value: ({ tag }) => tag },
    ...(digests ? [{ title: "DIGEST", value: ({ digest }: Row) => digest }] : []),
    { title: "IMAGE ID", value: ({ image }) => shownId(image.id, !trunc) },
    { title: "SIZE", value: ({ image }) => humanSize(image.size) },
  ];
}

const imageJson = (image: cri.Image): object => ({
  id: image.id,
  repoTags: image.repoTags,
  repoDigests: image.repoDigests,
  size: Number(image.size),
  pinned: image.pinned,
  user: image.uid ? image.uid.value.toString() : image.username,
});
