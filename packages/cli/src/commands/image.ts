/** `berth image`: nerdctl's management command, and what skopeo does with registries. */
import type { Command } from "commander";
import type { berth } from "@berth/spec";
import { configure } from "../command.ts";
import { Failure } from "../failure.ts";
import { printJson } from "../json.ts";
import { FILTER_HELP, parsePruneFilter, pruneImages } from "../prune.ts";
import { credentialsOf, parseCredentials, storedCredentials } from "../registry/credentials.ts";
import { transfer } from "../registry/transfer.ts";
import type { Session } from "../session.ts";
import { printLine } from "../shell.ts";
import { formatTable } from "../table.ts";
import { humanSize, rfc3339 } from "../units.ts";
import type { VerbModule } from "../verbs.ts";

interface Alias {
  readonly name: string;
  readonly aliases?: readonly string[];
  readonly summary: string;
  readonly load: () => Promise<VerbModule>;
}

/** Commands that stand on their own too. */
const SAME: readonly Alias[] = [
  { name: "ls", aliases: ["list"], summary: "list images", load: () => import("./images.ts") },
  { name: "inspect", summary: "print all about images, as JSON", load: () => import("./inspect.ts") },
  { name: "pull", summary: "download an image from a registry", load: () => import("./pull.ts") },
  { name: "push", summary: "upload an image to a registry", load: () => import("./push.ts") },
  { name: "tag", summary: "give an image another name", load: () => import("./tag.ts") },
  { name: "load", summary: "import images from an archive", load: () => import("./load.ts") },
  { name: "save", summary: "write images to an archive", load: () => import("./save.ts") },
  { name: "rm", aliases: ["remove"], summary: "remove images", load: () => import("./rmi.ts") },
];

export async function define(command: Command, session: Session): Promise<void> {
  command.usage("COMMAND").helpCommand(false);
  for (const { name, aliases = [], summary, load } of SAME) {
    const sub = command.command(name).summary(summary).description(`${summary}.`).aliases(aliases);
    configure(sub, session.shell);
    await (await load()).define(sub, session);
  }
  for (const own of [pruneCommand, pullsCommand, copyCommand, tagsCommand, referrersCommand])
    configure(own(command, session), session.shell);
}

const pullsCommand = (command: Command, session: Session): Command =>
  command
    .command("pulls")
    .summary("list the pulls under way, whoever asked for them")
    .description("Lists the pulls under way, also those of the kubelet, with how far they have got.")
    .usage("[options]")
    .option("--json", "a JSON list of reference, startedAt, layers, layersDone, doneBytes, totalBytes")
    .action((flags: { readonly json?: boolean }) => pulls(session, flags.json === true));

async function pulls(session: Session, json: boolean): Promise<void> {
  const { shell } = session;
  const client = await session.connect();
  const events: berth.PullEvent[] = [];
  for await (const event of client.berth.watchPulls({ once: true })) events.push(event);
  const byPull = Map.groupBy(events, ({ reference, startedAt }) => `${reference} ${startedAt}`);
  const rows = [...byPull.values()].map((all) => {
    const layers = all.flatMap(({ progress }) => (progress?.id.includes(":") ? [progress] : []));
    const sum = (of: (progress: berth.PullProgress) => bigint): bigint =>
      layers.reduce((total, progress) => total + of(progress), 0n);
    return {
      reference: all[0]?.reference ?? "",
      startedAt: rfc3339(all[0]?.startedAt ?? 0n) ?? null,
      layers: layers.length,
      layersDone: layers.filter(({ status }) => status === "done" || status === "exists").length,
      doneBytes: Number(sum(({ doneBytes }) => doneBytes)),
      totalBytes: Number(sum(({ totalBytes }) => totalBytes)),
    };
  });
  if (json) return printJson(shell, rows);
  const size = (bytes: number): string => humanSize(BigInt(bytes));
  shell.stdout.write(
    formatTable(
      [
        { title: "IMAGE", value: ({ reference }) => reference },
        { title: "LAYERS", value: ({ layersDone, layers }) => `${layersDone}/${layers}` },
        { title: "SIZE", value: ({ doneBytes, totalBytes }) => `${size(doneBytes)} / ${size(totalBytes)}` },
      ],
      rows,
    ),
  );
}

const pruneCommand = (command: Command, session: Session): Command =>
  command
    .command("prune")
    .summary("remove images that nothing uses")
    .description("Removes images without a name that no container uses; with --all named ones too. Pinned images stay.")
    .option("-a, --all", "also images that have a name")
    .option("-f, --force", "needed, so that nothing is removed by mistake")
    .option(
      "--filter <key=value>",
      `${FILTER_HELP}, dangling=BOOL (false: as --all)`,
      (text: string, all: string[]) => [...all, text],
      [],
    )
    .action(async ({ all = false, force, filter }: { all?: boolean; force?: boolean; filter: string[] }) => {
      const wanted = parsePruneFilter(filter, Date.now(), { dangling: true });
      if (!force)
        throw new Failure(
          `image prune removes ${all ? "every unused image" : "images without a name"}: say -f if that is meant`,
        );
      await pruneImages(await session.connect(), session, all, wanted);
    });

interface CopyFlags {
  readonly all?: boolean;
  readonly quiet?: boolean;
  readonly json?: boolean;
  readonly platform?: string;
  readonly srcCreds?: string;
  readonly destCreds?: string;
}

const copyCommand = (command: Command, session: Session): Command =>
  command
    .command("copy")
    .summary("copy an image from one registry to another")
    .description("Copies an image from one registry to another, through this node but not into its store.")
    .usage("[options] SOURCE DESTINATION")
    .argument("<source>", "[registry/]repository[:tag][@digest]")
    .argument("<destination>", "[registry/]repository[:tag]")
    .option("-a, --all", "all images of an index, and the index itself")
    .option("--platform <os/arch>", "of an index the image for this platform (default: this machine's)")
    .option("-q, --quiet", "no progress")
    .option("--src-creds <user:password>", "who to be at the source")
    .option("--dest-creds <user:password>", "who to be at the destination")
    .option("--json", "print the result as JSON")
    .action((source: string, destination: string, flags: CopyFlags) => copy(session, source, destination, flags));

async function copy(session: Session, source: string, destination: string, flags: CopyFlags): Promise<void> {
  const { shell } = session;
  const { srcCreds, destCreds, all = false, platform = "" } = flags;
  const sourceAuth =
    srcCreds === undefined ? await storedCredentials(source, shell) : parseCredentials(srcCreds, "--src-creds");
  const destinationAuth =
    destCreds === undefined ? await storedCredentials(destination, shell) : parseCredentials(destCreds, "--dest-creds");
  const client = await session.connect();
  const quiet = flags.quiet === true || flags.json === true;
  const auths = { ...(sourceAuth && { sourceAuth }), ...(destinationAuth && { destinationAuth }) };
  const { id: digest, reference } = await transfer(session, `copy of "${source}"`, quiet, (signal) =>
    client.berth.copy({ source, destination, all, platform, ...auths }, { signal }),
  );
  if (flags.json) printJson(shell, { digest, reference });
  else printLine(shell, digest);
}

interface ListFlags {
  readonly creds?: string;
  readonly json?: boolean;
  readonly artifactType?: string;
}

const tagsCommand = (command: Command, session: Session): Command =>
  command
    .command("tags")
    .summary("list the tags of a repository in its registry")
    .description("Lists the tags of a repository in its registry, one a line.")
    .usage("[options] REPOSITORY")
    .argument("<repository>", "[registry/]repository")
    .option("--creds <user:password>", "who to be at the registry")
    .option("--json", "a JSON list, for scripts")
    .action((repository: string, flags: ListFlags) => tags(session, repository, flags));

async function tags(session: Session, repository: string, { creds, json }: ListFlags): Promise<void> {
  const { shell } = session;
  const auth = await credentialsOf(creds, repository, shell);
  const client = await session.connect();
  const { tags: found } = await client.berth.listTags({ repository, ...(auth && { auth }) });
  if (json) printJson(shell, found);
  else for (const tag of found) printLine(shell, tag);
}

const referrersCommand = (command: Command, session: Session): Command =>
  command
    .command("referrers")
    .summary("list what refers to an image in its registry: signatures, attestations")
    .description("Lists what refers to an image in its registry: signatures, attestations.")
    .usage("[options] IMAGE")
    .argument("<image>", "[registry/]repository[:tag][@digest]")
    .option("--artifact-type <type>", "only those of this type")
    .option("--creds <user:password>", "who to be at the registry")
    .option("--json", "a JSON list of digest, mediaType, artifactType, size, annotations")
    .action((image: string, flags: ListFlags) => referrers(session, image, flags));

async function referrers(session: Session, image: string, flags: ListFlags): Promise<void> {
  const { shell } = session;
  const auth = await credentialsOf(flags.creds, image, shell);
  const client = await session.connect();
  const { referrers: found } = await client.berth.listReferrers({
    image,
    artifactType: flags.artifactType ?? "",
    ...(auth && { auth }),
  });
  const rows = found.map(({ digest, mediaType, artifactType, size, annotations }) => ({
    digest,
    mediaType,
    artifactType,
    size: Number(size),
    annotations,
  }));
  if (flags.json) return printJson(shell, rows);
  const columns = [
    { title: "DIGEST", value: ({ digest }: (typeof rows)[number]) => digest },
    { title: "TYPE", value: ({ artifactType, mediaType }: (typeof rows)[number]) => artifactType || mediaType },
    { title: "SIZE", value: ({ size }: (typeof rows)[number]) => humanSize(BigInt(size)) },
  ];
  shell.stdout.write(formatTable(columns, rows));
}
