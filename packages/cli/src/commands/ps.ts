import type { Command } from "commander";
import { cri } from "@berth/spec";
import { type ContainerJson, containerJson, imageOf, newestFirst, stateName, withStatus } from "../containers.ts";
import { Failure } from "../failure.ts";
import { hasLabel, parseFilters } from "../filters.ts";
import { shownId } from "../ids.ts";
import { type JsonOptions, printJson, wantsJson } from "../json.ts";
import { containerName } from "../names.ts";
import type { Session } from "../session.ts";
import { printLine } from "../shell.ts";
import { type Column, formatTable, truncate } from "../table.ts";
import { ago } from "../units.ts";

interface Flags extends JsonOptions {
  readonly all?: boolean;
  readonly quiet?: boolean;
  readonly trunc: boolean;
  readonly filter: readonly string[];
  readonly last?: string;
  readonly latest?: boolean;
}

const HELP = `
Filters: id=, name= (part of it), label=KEY[=VALUE], status=created|running|exited|unknown, image= (ancestor= too), pod= (id).
Filters with one key are alternatives; with several keys all must hold.
--json prints a list of: id, podId, name, image, imageId, command, state, status, exitCode, createdAt, startedAt, finishedAt, ports, labels.

Example:
  berth ps -a --json | jq -r '.[] | select(.exitCode > 0) | .name'`;

export function define(command: Command, session: Session): void {
  command
    .usage("[options]")
    .option("-a, --all", "also those that do not run")
    .option("-q, --quiet", "ids only")
    .option("--no-trunc", "whole ids and commands")
    .option(
      "-f, --filter <key=value>",
      "only some; may be repeated",
      (value: string, previous: readonly string[]) => [...previous, value],
      [],
    )
    .option("-n, --last <number>", "the newest ones, whatever their state")
    .option("-l, --latest", "the newest one: -n 1")
    .option("--json", "a JSON list, for scripts")
    .option("--format <format>", "json or table")
    .addHelpText("after", HELP)
    .action((flags: Flags) => ps(session, flags));
}

async function ps(session: Session, flags: Flags): Promise<void> {
  const { shell } = session;
  const json = wantsJson(flags);
  const wanted = selection(flags);
  const client = await session.connect();
  const { containers } = await client.runtime.listContainers({});
  const chosen = wanted(newestFirst(containers));
  if (flags.quiet && !json) return chosen.forEach(({ id }) => printLine(shell, shownId(id, !flags.trunc)));
  const now = Date.now();
  const rows = (await withStatus(client, chosen)).map(({ container, status }) => ({
    container,
    json: containerJson(container, status, now),
  }));
  if (json)
    return printJson(
      shell,
      rows.map((row) => row.json),
    );
  shell.stdout.write(formatTable(columns(!flags.trunc, now), rows));
}

/** Which of the containers, newest first, are shown. */
function selection({
  all = false,
  filter,
  last,
  latest,
}: Flags): (containers: readonly cri.Container[]) => readonly cri.Container[] {
  const most = last === undefined ? (latest ? 1 : undefined) : parseCount(last);
  const matches = parseFilters<cri.Container>(filter, {
    id: ({ id }, value) => id.startsWith(value),
    name: (container, value) => containerName(container).includes(value),
    label: ({ labels }, value) => hasLabel(labels, value),
    status: ({ state }, value) => stateName(state) === value,
    image: (container, value) => isFrom(container, value),
    ancestor: (container, value) => isFrom(container, value),
    pod: ({ podSandboxId }, value) => podSandboxId.startsWith(value),
  });
  const anyState = all || most !== undefined || filter.some((text) => text.startsWith("status="));
  return (containers) => {
    const chosen = containers.filter(
      (container) => (anyState || container.state === cri.ContainerState.CONTAINER_RUNNING) && matches(container),
    );
    return most === undefined ? chosen : chosen.slice(0, most);
  };
}

function parseCount(text: string): number {
  if (!/^\d{1,6}$/.test(text)) throw new Failure(`-n: "${text}" is not a number`);
  return Number(text);
}

const isFrom = (container: cri.Container, value: string): boolean =>
  [imageOf(container), container.image?.image, container.imageId].some(
    (name) => name === value || name === `${value}:latest`,
  ) ||
  (value.length >= 6 && container.imageId.replace(/^sha256:/, "").startsWith(value));

interface Row {
  readonly container: cri.Container;
  readonly json: ContainerJson;
}

const COMMAND_WIDTH = 24;

const columns = (full: boolean, now: number): Column<Row>[] => [
  { title: "CONTAINER ID", value: ({ json }) => shownId(json.id, full) },
  { title: "IMAGE", value: ({ json }) => (full ? json.image : shortImage(json.image)) },
  { title: "COMMAND", value: ({ json }) => commandCell(json.command, full) },
  { title: "CREATED", value: ({ container }) => ago(container.createdAt, now) },
  { title: "STATUS", value: ({ json }) => json.status },
  { title: "PORTS", value: ({ json }) => json.ports.join(", ") },
  { title: "NAMES", value: ({ json }) => json.name },
];

const shortImage = (image: string): string =>
  image.replace(/^(sha256:[0-9a-f]{12})[0-9a-f]*$/, "$1").replace(/@sha256:([0-9a-f]{12})[0-9a-f]*$/, "@sha256:$1");

function commandCell(command: readonly string[], full: boolean): string {
  if (command.length === 0) return "";
  const text = command.join(" ");
  return `"${full ? text : truncate(text, COMMAND_WIDTH)}"`;
}
