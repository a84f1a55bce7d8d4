/** What a pull shows: on a terminal one line for each layer, with a bar, drawn over and over; elsewhere one line for each layer that is done. */
import type { berth } from "@berth/spec";
import { shortId } from "../ids.ts";
import type { Output } from "../shell.ts";
import { humanSize } from "../units.ts";

type Update = Pick<berth.PullProgress, "id" | "status" | "doneBytes" | "totalBytes">;

export interface PullDisplay {
  update(progress: Update): void;
  /** Draws the last state; nothing is drawn afterwards. */
  finish(): void;
}

export const QUIET: PullDisplay = { update: () => undefined, finish: () => undefined };

/** Milliseconds between two drawings. */
const INTERVAL = 80;

/** `now` is for tests. */
export function pullDisplay(output: Output, now: () => number = Date.now): PullDisplay {
  return output.isTTY ? new Bars(output, now) : new Lines(output);
}

const FINAL: Readonly<Record<string, string>> = {
  done: "done",
  exists: "already here",
  // Of a push: another repository of the registry has it.
  mounted: "mounted",
};

const labelOf = (id: string): string => (/^[a-z0-9]+:[0-9a-f]{32,}$/.test(id) ? shortId(id) : id);

class Lines implements PullDisplay {
  readonly #output: Output;
  readonly #finished = new Set<string>();

  constructor(output: Output) {
    this.#output = output;
  }

  update({ id, status, totalBytes }: Update): void {
    const words = FINAL[status];
    if (words === undefined || this.#finished.has(id)) return;
    this.#finished.add(id);
    this.#output.write(`${labelOf(id)}: ${words}${totalBytes > 0n ? ` (${humanSize(totalBytes)})` : ""}\n`);
  }

  finish(): void {
    // Each line was complete when it was written.
  }
}

const ESCAPE = "\u001b";
const UP = (lines: number): string => (lines > 0 ? `${ESCAPE}[${lines}A` : "");
const CLEAR_LINE = `${ESCAPE}[2K`;
const CLEAR_BELOW = `${ESCAPE}[J`;

class Bars implements PullDisplay {
  readonly #output: Output;
  readonly #now: () => number;
  readonly #layers = new Map<string, Update>();
  #drawnAt = -Infinity;
  #drawnLines = 0;
  #timer: NodeJS.Timeout | undefined;

  constructor(output: Output, now: () => number) {
    this.#output = output;
    this.#now = now;
  }

  update(progress: Update): void {
    this.#layers.set(progress.id, progress);
    if (this.#timer) return;
    const wait = this.#drawnAt + INTERVAL - this.#now();
    if (wait <= 0) this.#draw();
    else this.#timer = setTimeout(() => this.#draw(), wait);
  }

  finish(): void {
    this.#draw();
  }

  #draw(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#drawnAt = this.#now();
    // A terminal that does not know its size says 0.
    const lines = fit([...this.#layers.values()], this.#output.rows || 24, this.#output.columns || 80);
    this.#output.write(
      `${UP(this.#drawnLines)}${lines.map((line) => `\r${CLEAR_LINE}${line}\n`).join("")}${CLEAR_BELOW}`,
    );
    this.#drawnLines = lines.length;
  }
}

/** At most a screenful, or moving up to draw again would miss: what is finished is then counted in one line. */
function fit(layers: readonly Update[], rows: number, columns: number): string[] {
  const room = Math.max(2, rows - 1);
  const labels = Math.max(0, ...layers.map(({ id }) => labelOf(id).length));
  const draw = (layer: Update): string => layerLine(layer, labels, columns);
  if (layers.length <= room) return layers.map(draw);
  const open = layers.filter(({ status }) => FINAL[status] === undefined);
  const shown = open.slice(0, room - 1);
  const rest = open.length > shown.length ? `, ${open.length - shown.length} more to come` : "";
  return [`${layers.length - open.length} of ${layers.length} done${rest}`.slice(0, columns - 1), ...shown.map(draw)];
}

const STATUS_WIDTH = 12;
const BAR_MAX = 40;
const BAR_MIN = 8;

/** "a1b2c3d4e5f6  downloading  [=====>      ]  12.3MB / 45.6MB", never as wide as the terminal. */
export function layerLine({ id, status, doneBytes, totalBytes }: Update, labelWidth: number, columns: number): string {
  const head = `${labelOf(id).padEnd(labelWidth)}  ${(FINAL[status] ?? status).padEnd(STATUS_WIDTH)}`;
  const sizes = sizesOf(status, doneBytes, totalBytes);
  const room = columns - 1 - head.length - sizes.length - "  []  ".length;
  const bar =
    FINAL[status] === undefined && totalBytes > 0n && room >= BAR_MIN
      ? `  [${barOf(doneBytes, totalBytes, Math.min(BAR_MAX, room))}]`
      : "";
  return `${head}${bar}${sizes === "" ? "" : `  ${sizes}`}`.trimEnd().slice(0, columns - 1);
}

function sizesOf(status: string, done: bigint, total: bigint): string {
  if (total === 0n) return done === 0n ? "" : humanSize(done);
  return FINAL[status] === undefined && status !== "waiting"
    ? `${humanSize(done)} / ${humanSize(total)}`
    : humanSize(total);
}

function barOf(done: bigint, total: bigint, width: number): string {
  const share = Math.min(1, Number(done) / Number(total));
  const filled = Math.floor(share * width);
  return filled >= width ? "=".repeat(width) : `${"=".repeat(filled)}>`.padEnd(width).slice(0, width);
}
