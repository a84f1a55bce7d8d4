/** `berth system df`, with docker's columns. */
import type { Command } from "commander";
import type { berth } from "@berth/spec";
import { type JsonOptions, printJson, wantsJson } from "../json.ts";
import type { Session } from "../session.ts";
import { formatTable } from "../table.ts";
import { humanSize } from "../units.ts";

export const diskUsageCommand = (command: Command, session: Session): Command =>
  command
    .command("df")
    .summary("show what images and containers take on disk")
    .description(
      "Shows what images and containers take on disk, and what of it removing the unused ones would free. Layers that images share count once.",
    )
    .option("--json", "a JSON list, for scripts")
    .option("--format <format>", "json or table")
    .action((flags: JsonOptions) => diskUsage(session, flags));

async function diskUsage(session: Session, flags: JsonOptions): Promise<void> {
  const json = wantsJson(flags);
  const client = await session.connect();
  const { kinds } = await client.berth.diskUsage({});
  if (json)
    return printJson(
      session.shell,
      kinds.map(({ type, total, active, bytes, reclaimable }) => ({
        type,
        total,
        active,
        size: Number(bytes),
        reclaimable: Number(reclaimable),
      })),
    );
  session.shell.stdout.write(formatTable(COLUMNS, kinds));
}

type Kind = berth.DiskUsageResponse_Kind;

const COLUMNS = [
  { title: "TYPE", value: ({ type }: Kind) => `${type.charAt(0).toUpperCase()}${type.slice(1)}` },
  { title: "TOTAL", value: ({ total }: Kind) => String(total) },
  { title: "ACTIVE", value: ({ active }: Kind) => String(active) },
  { title: "SIZE", value: ({ bytes }: Kind) => humanSize(bytes) },
  {
    title: "RECLAIMABLE",
    value: ({ bytes, reclaimable }: Kind) => `${humanSize(reclaimable)}${share(reclaimable, bytes)}`,
  },
];

const share = (part: bigint, whole: bigint): string => (whole === 0n ? "" : ` (${(part * 100n) / whole}%)`);
