/** Tables on a terminal: columns as wide as their content, three spaces between them, none at the end of a line. */
const GAP = 3;

export interface Column<T> {
  readonly title: string;
  readonly value: (row: T) => string;
}

export function formatTable<T>(columns: readonly Column<T>[], rows: readonly T[]): string {
  const cells = [
    columns.map(({ title }) => title),
    ...rows.map((row) => columns.map(({ value }) => printable(value(row)))),
  ];
  const widths = columns.map((_, index) => Math.max(...cells.map((row) => widthOf(row[index] ?? ""))));
  return cells
    .map(
      (row) =>
        `${row
          .map((cell, index) => pad(cell, (widths[index] ?? 0) + GAP))
          .join("")
          .trimEnd()}\n`,
    )
    .join("");
}

const pad = (cell: string, width: number): string => cell + " ".repeat(Math.max(0, width - widthOf(cell)));

/** Terminal columns; wide East Asian characters and emoji take two (the ranges of Unicode's UAX #11 that occur in names). */
export function widthOf(text: string): number {
  let width = 0;
  for (const character of text) {
    const code = character.codePointAt(0) ?? 0;
    if (/^\p{M}$/u.test(character)) continue;
    width += isWide(code) ? 2 : 1;
  }
  return width;
}

const isWide = (code: number): boolean =>
  (code >= 0x1100 && code <= 0x115f) ||
  (code >= 0x2e80 && code <= 0xa4cf) ||
  (code >= 0xac00 && code <= 0xd7a3) ||
  (code >= 0xf900 && code <= 0xfaff) ||
  (code >= 0xfe30 && code <= 0xfe6f) ||
  (code >= 0xff00 && code <= 0xff60) ||
  (code >= 0xffe0 && code <= 0xffe6) ||
  (code >= 0x1f300 && code <= 0x1faff) ||
  (code >= 0x20000 && code <= 0x3fffd);

/** What a label, a name or a command holds must not reach the terminal as an escape sequence, nor break the line. */
export const printable = (text: string): string =>
  // oxlint-disable-next-line no-control-regex -- control characters are what this is about
  text.replace(/[\u0000-\u001f\u007f-\u009f]/g, (character) =>
    character === "\t" || character === "\n" ? " " : "\ufffd",
  );

/** At most `width` characters, the last one "…" where something is left out. */
export function truncate(text: string, width: number): string {
  const characters = [...text];
  return characters.length <= width ? text : `${characters.slice(0, width - 1).join("")}…`;
}
