/** `berth system df`, with docker's columns. */
import type { Command } from "commander";
import type { berth } from "@berth/spec";
import { type ContainerJson, containerJson, withStatus } from "../containers.ts";
import { shownId } from "../ids.ts";
import { type JsonOptions, printJson, wantsJson } from "../json.ts";
import type { Session } from "../session.ts";
import { type Column, formatTable } from "../table.ts";
import { ago, humanSize, rfc3339 } from "../units.ts";

interface Flags extends JsonOptions {
  readonly verbose?: boolean;
}

export const diskUsageCommand = (command: Command, session: Session): Command =>
  command
    .command("df")
    .summary("show what images and containers take on disk")
    .description(
      "Shows what images and containers take on disk, and what of it removing the unused ones would free. Layers that images share count once.",
    )
    .option("-v, --verbose", "each image and container by itself")
    .option("--json", "a JSON list, for scripts; with -v an object of two")
    .option("--format <format>", "json or table")
    .action((flags: Flags) => diskUsage(session, flags));

async function diskUsage(session: Session, flags: Flags): Promise<void> {
  const json = wantsJson(flags);
  const client = await session.connect();
  const usage = await client.berth.diskUsage({ verbose: flags.verbose === true });
  if (flags.verbose) return await printEach(session, usage, json);
  if (json)
    return printJson(
      session.shell,
      usage.kinds.map(({ type, total, active, bytes, reclaimable }) => ({
        type,
        total,
        active,
        size: Number(bytes),
        reclaimable: Number(reclaimable),
      })),
    );
  session.shell.stdout.write(formatTable(COLUMNS, usage.kinds));
}

type Kind = berth.DiskUsageResponse_Kind;

const COLUMNS: readonly Column<Kind>[] = [
  { title: "TYPE", value: ({ type }) => `${type.charAt(0).toUpperCase()}${type.slice(1)}` },
  { title: "TOTAL", value: ({ total }) => String(total) },
  { title: "ACTIVE", value: ({ active }) => String(active) },
  { title: "SIZE", value: ({ bytes }) => humanSize(bytes) },
  { title: "RECLAIMABLE", value: ({ bytes, reclaimable }) => `${humanSize(reclaimable)}${share(reclaimable, bytes)}` },
];

const share = (part: bigint, whole: bigint): string => (whole === 0n ? "" : ` (${(part * 100n) / whole}%)`);

type Image = berth.DiskUsageResponse_Image;
type Container = ContainerJson & { readonly bytes: bigint; readonly created: bigint };

async function printEach(
  session: Session,
  { images, containers: sizes }: berth.DiskUsageResponse,
  json: boolean,
): Promise<void> {
  const { shell } = session;
  const client = await session.connect();
  const now = Date.now();
  const bytes = new Map(sizes.map((size) => [size.id, size.bytes]));
  const { containers } = await client.runtime.listContainers({});
  const rows = (await withStatus(client, containers)).map(({ container, status }): Container => ({
    ...containerJson(container, status, now),
    bytes: bytes.get(container.id) ?? 0n,
    created: container.createdAt,
  }));
  if (json)
    return printJson(shell, {
      images: images.map((image) => ({
        id: image.id,
        references: image.references,
        createdAt: rfc3339(image.createdAt) ?? null,
        size: Number(image.bytes),
        sharedSize: Number(image.bytes - image.uniqueBytes),
        uniqueSize: Number(image.uniqueBytes),
        containers: image.containers,
      })),
      containers: rows.map(({ id, name, image, status, bytes: size }) => ({
        id,
        name,
        image,
        status,
        size: Number(size),
      })),
    });
  shell.stdout.write(`Images space usage:\n\n${formatTable(imageColumns(now), images)}\n`);
  shell.stdout.write(`Containers space usage:\n\n${formatTable(containerColumns(now), rows)}`);
}

const imageColumns = (now: number): Column<Image>[] => [
  { title: "IMAGE", value: ({ references }) => references[0] ?? "<none>" },
  { title: "IMAGE ID", value: ({ id }) => shownId(id, false) },
  { title: "CREATED", value: ({ createdAt }) => ago(createdAt, now) },
  { title: "SIZE", value: ({ bytes }) => humanSize(bytes) },
  { title: "SHARED SIZE", value: ({ bytes, uniqueBytes }) => humanSize(bytes - uniqueBytes) },
  { title: "UNIQUE SIZE", value: ({ uniqueBytes }) => humanSize(uniqueBytes) },
  { title: "CONTAINERS", value: ({ containers }) => String(containers) },
];

const containerColumns = (now: number): Column<Container>[] => [
  { title: "CONTAINER ID", value: ({ id }) => shownId(id, false) },
  { title: "IMAGE", value: ({ image }) => image },
  { title: "SIZE", value: ({ bytes }) => humanSize(bytes) },
  { title: "CREATED", value: ({ created }) => ago(created, now) },
  { title: "STATUS", value: ({ status }) => status },
  { title: "NAMES", value: ({ name }) => name },
];
