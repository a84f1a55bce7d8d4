/** list: every container below the root. One that cannot be read is reported and left out. */
import { existsSync } from "node:fs";
import { CommandError } from "../command/failure.ts";
import type { Command } from "../command/context.ts";
import { describe } from "./state.ts";

const MIN_WIDTH = 12;
const PADDING = 3;
const COLUMNS = ["id", "pid", "status", "bundle", "created", "owner"] as const;

export const command: Command = {
  run({ flags, global, states, log, out }) {
    // The default root is made with the first container; another one is a mistake where it is missing.
    if (global.has("root") && !existsSync(states.root))
      throw new CommandError(`open ${states.root}: no such file or directory`);
    const containers: Record<string, unknown>[] = [];
    for (const id of states.ids()) {
      try {
        containers.push(describe(states.read(id), states));
      } catch (error) {
        // Made or deleted at this moment, or another runtime's.
        if (!(error instanceof CommandError)) throw error;
        if (!flags.boolean("quiet")) log.debug(`load container ${id}: ${error.message}`);
      }
    }
    if (flags.boolean("quiet")) out(containers.map(({ id }) => `${String(id)}\n`).join(""));
    else out(format(flags.text("format") || "table", containers));
    return 0;
  },
};

function format(name: string, containers: readonly Record<string, unknown>[]): string {
  // As Go encodes a list that was never made.
  if (name === "json") return `${containers.length === 0 ? "null" : JSON.stringify(containers)}\n`;
  if (name !== "table") throw new CommandError("invalid format option");
  return table([
    COLUMNS.map((column) => column.toUpperCase()),
    ...containers.map((one) => COLUMNS.map((column) => String(one[column]))),
  ]);
}

/** Go's tabwriter with a minimal width of 12 and 3 of padding; the last column ends its line. */
function table(rows: readonly (readonly string[])[]): string {
  const widths = COLUMNS.map((_column, index) =>
    Math.max(MIN_WIDTH, ...rows.map((row) => (row[index] ?? "").length + PADDING)),
  );
  return rows
    .map((row) =>
      row.map((cell, index) => (index === COLUMNS.length - 1 ? cell : cell.padEnd(widths[index] ?? 0))).join(""),
    )
    .map((line) => `${line}\n`)
    .join("");
}
