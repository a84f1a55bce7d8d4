/** Reads a newc archive back. */
export interface Unpacked {
  readonly path: string;
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly mtime: number;
  readonly device: readonly [number, number];
  readonly data: Buffer;
}

export function unpackCpio(archive: Buffer): Unpacked[] {
  const entries: Unpacked[] = [];
  for (let at = 0; ;) {
    if (archive.toString("latin1", at, at + 6) !== "070701") throw new Error(`no entry at ${at}`);
    const number = (index: number): number =>
      Number.parseInt(archive.toString("latin1", at + 6 + index * 8, at + 14 + index * 8), 16);
    const nameEnd = at + 110 + number(11);
    const path = archive.toString("utf8", at + 110, nameEnd - 1);
    const from = align(nameEnd);
    const data = archive.subarray(from, from + number(6));
    if (path === "TRAILER!!!") return entries;
    const device = [number(9), number(10)] as const;
    entries.push({ path, mode: number(1), uid: number(2), gid: number(3), mtime: number(5), device, data });
    at = align(from + data.length);
  }
}

const align = (offset: number): number => Math.ceil(offset / 4) * 4;
