/** text/tabwriter with crictl's settings: cells end in tabs, columns are as wide as their widest cell and the padding, at least `least`. */

const PADDING = 3;

export function table(rows: readonly (readonly string[])[], least = 20): string {
  return layOut(rows, least, PADDING);
}

/** The last cell of a row belongs to no column; a column goes on for as many rows as have a cell in it. */
export function layOut(rows: readonly (readonly string[])[], least: number, padding: number): string {
  const widths = rows.map((row) => row.map(() => 0));
  for (const [index, row] of rows.entries()) {
    for (let column = 0; column < row.length - 1; column++) {
      if ((widths[index]?.[column] ?? 0) > 0) continue;
      let end = index;
      let width = 0;
      for (; (rows[end]?.length ?? 0) - 1 > column; end++) width = Math.max(width, lengthOf(rows[end]?.[column] ?? ""));
      // A column of nothing takes no room.
      const room = width === 0 && least === 0 ? 0 : Math.max(width + padding, least);
      for (let at = index; at < end; at++) (widths[at] as number[])[column] = room;
    }
  }
  return rows
    .map((row, index) =>
      row
        .map((cell, column) =>
          column < row.length - 1
            ? cell + " ".repeat(Math.max(0, (widths[index]?.[column] ?? 0) - lengthOf(cell)))
            : cell,
        )
        .join(""),
    )
    .map((line) => `${line}\n`)
    .join("");
}

const lengthOf = (text: string): number => [...text].length;
