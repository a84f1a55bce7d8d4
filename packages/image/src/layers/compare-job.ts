/** Whether two unpacked layers are the same: images byte by byte, as the writer makes the same bytes of the same archive; directories entry by entry. */
import { closeSync, lstatSync, openSync, readdirSync, readlinkSync, readSync } from "node:fs";
import type { Jobs } from "./jobs.ts";

const CHUNK = 1 << 20;

export function compareLayers({ format, one, other }: Jobs["compare"]["request"]): string | undefined {
  return format === "erofs" ? compareFiles(one, other) : compareTrees(Buffer.from(one), Buffer.from(other));
}

function compareFiles(one: string | Buffer, other: string | Buffer): string | undefined {
  const [a, b] = [openSync(one, "r"), openSync(other, "r")];
  try {
    const [left, right] = [Buffer.alloc(CHUNK), Buffer.alloc(CHUNK)];
    for (let at = 0; ; at += CHUNK) {
      const [sizeLeft, sizeRight] = [readSync(a, left, 0, CHUNK, at), readSync(b, right, 0, CHUNK, at)];
      if (sizeLeft !== sizeRight) return `${text(one)} has another length than its layer makes`;
      if (!left.subarray(0, sizeLeft).equals(right.subarray(0, sizeRight)))
        return `${text(one)} differs from what its layer makes, between bytes ${at} and ${at + sizeLeft}`;
      if (sizeLeft < CHUNK) return undefined;
    }
  } finally {
    closeSync(a);
    closeSync(b);
  }
}

/** Extended attributes are not compared: Node has no call that reads them. */
function compareTrees(one: Buffer, other: Buffer): string | undefined {
  const pending: Buffer[] = [Buffer.alloc(0)];
  for (let path = pending.pop(); path !== undefined; path = pending.pop()) {
    const [a, b] = [Buffer.concat([one, path]), Buffer.concat([other, path])];
    const [left, right] = [lstatSync(a, { bigint: true }), lstatSync(b, { bigint: true })];
    for (const field of ["mode", "uid", "gid", "mtimeNs", "rdev"] as const)
      if (left[field] !== right[field]) return `${printable(a)}: ${field} is ${left[field]} instead of ${right[field]}`;
    if (left.isDirectory()) {
      const names = readdirSync(a, { encoding: "buffer" }).sort((x, y) => x.compare(y));
      const wanted = readdirSync(b, { encoding: "buffer" }).sort((x, y) => x.compare(y));
      if (!Buffer.concat(names.map(lined)).equals(Buffer.concat(wanted.map(lined))))
        return `${printable(a)} has other entries than its layer makes`;
      for (const name of names) pending.push(Buffer.concat([path, SLASH, name]));
    } else if (left.isSymbolicLink()) {
      if (!readlinkSync(a, { encoding: "buffer" }).equals(readlinkSync(b, { encoding: "buffer" })))
        return `${printable(a)} has another target than its layer makes`;
    } else if (left.isFile()) {
      const different = left.size === right.size ? compareFiles(a, b) : "length";
      if (different !== undefined) return `${printable(a)} has other content than its layer makes`;
    }
  }
  return undefined;
}

const text = (path: string | Buffer): string => printable(Buffer.from(path));
const SLASH = Buffer.from("/");
const lined = (name: Buffer): Buffer => Buffer.concat([name, SLASH]);
const printable = (path: Buffer): string => path.toString("latin1").replaceAll(/[^\x20-\x7e]/g, "?");
