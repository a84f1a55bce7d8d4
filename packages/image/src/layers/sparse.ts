/**
 * GNU's sparse files: where the stored data belongs in the file. Four encodings (GNU tar manual, "Storing Sparse Files"):
 * the old one in the header, and pax 0.0, 0.1 and 1.0.
 */
import { ImageError } from "../errors.ts";
import type { ByteReader } from "./byte-reader.ts";
import { type PaxRecords, paxInteger } from "./pax.ts";
import { BLOCK, latin1, parseNumber } from "./tar-header.ts";

/** A piece of the file that is stored; what lies between pieces is a hole. */
export interface Extent {
  readonly offset: number;
  readonly length: number;
}

export interface SparseMap {
  readonly extents: readonly Extent[];
  /** Length of the whole file. */
  readonly size: number;
  /** Bytes of the entry's data that the map itself takes (pax 1.0). */
  readonly mapBytes: number;
}

const MAX_EXTENTS = 1_000_000;

/** The map of an old GNU header (type "S"), whose further blocks follow in the stream. */
export async function readOldSparse(header: Uint8Array, reader: ByteReader, stored: number): Promise<SparseMap> {
  const at = reader.offset - BLOCK;
  const extents: Extent[] = [];
  const collect = (block: Uint8Array, from: number, count: number): void => {
    for (let i = 0; i < count; i++) {
      const entry = from + i * 24;
      if (block[entry] === 0) return;
      extents.push({
        offset: parseNumber(block.subarray(entry, entry + 12), "sparse offset", at),
        length: parseNumber(block.subarray(entry + 12, entry + 24), "sparse length", at),
      });
    }
  };
  collect(header, 386, 4);
  for (let more = header[482] !== 0; more;) {
    const block = await reader.exactly(BLOCK);
    if (block.length < BLOCK)
      throw new ImageError("InvalidImage", `tar: truncated in the sparse map at byte ${reader.offset}`);
    if (extents.length > MAX_EXTENTS) throw tooMany(at);
    collect(block, 0, 21);
    more = block[504] !== 0;
  }
  return check({ extents, size: parseNumber(header.subarray(483, 495), "real size", at), mapBytes: 0 }, stored, at);
}

/** Whether a file's pax records say that it is sparse. */
export function isPaxSparse(records: PaxRecords): boolean {
  return records.some(
    ([key]) =>
      key === "GNU.sparse.major" ||
      key === "GNU.sparse.map" ||
      key === "GNU.sparse.numblocks" ||
      key === "GNU.sparse.offset",
  );
}

/** `stored`: the bytes of the entry's data. Format 1.0 reads its map from the stream. */
export async function readPaxSparse(records: PaxRecords, reader: ByteReader, stored: number): Promise<SparseMap> {
  const at = reader.offset;
  const last = (key: string): Uint8Array | undefined => records.findLast(([name]) => name === key)?.[1];
  const size = last("GNU.sparse.realsize") ?? last("GNU.sparse.size");
  if (size === undefined) throw new ImageError("InvalidImage", `tar: the sparse file at byte ${at} has no size`);
  const length = paxInteger(size, "GNU.sparse.size", at);
  const major = last("GNU.sparse.major");
  if (major !== undefined && paxInteger(major, "GNU.sparse.major", at) === 1) {
    const { extents, mapBytes } = await readMap1(reader, stored, at);
    return check({ extents, size: length, mapBytes }, stored - mapBytes, at);
  }
  const map = last("GNU.sparse.map");
  const numbers =
    map !== undefined
      ? numbersOf(map, at)
      : records
          .filter(([key]) => key === "GNU.sparse.offset" || key === "GNU.sparse.numbytes")
          .map(([key, value]) => paxInteger(value, key, at));
  return check({ extents: pair(numbers, at), size: length, mapBytes: 0 }, stored, at);
}

function numbersOf(map: Uint8Array, at: number): number[] {
  if (map.length === 0) return [];
  return latin1(map)
    .split(",")
    .map((digits) => paxInteger(Buffer.from(digits), "GNU.sparse.map", at));
}

function pair(numbers: readonly number[], at: number): Extent[] {
  if (numbers.length % 2 !== 0)
    throw new ImageError("InvalidImage", `tar: the sparse map at byte ${at} ends within a pair`);
  if (numbers.length / 2 > MAX_EXTENTS) throw tooMany(at);
  const extents: Extent[] = [];
  for (let i = 0; i < numbers.length; i += 2)
    extents.push({ offset: numbers[i] as number, length: numbers[i + 1] as number });
  return extents;
}

/** Lines of decimal numbers at the start of the data: how many pairs, then the pairs; padded to a block. */
async function readMap1(
  reader: ByteReader,
  stored: number,
  at: number,
): Promise<{ extents: Extent[]; mapBytes: number }> {
  const numbers: number[] = [];
  let digits = "";
  let mapBytes = 0;
  for (let wanted = 1; numbers.length < wanted;) {
    const block = await reader.exactly(BLOCK);
    mapBytes += BLOCK;
    if (block.length < BLOCK || mapBytes > stored)
      throw new ImageError("InvalidImage", `tar: truncated in the sparse map at byte ${at}`);
    for (const character of latin1(block)) {
      if (numbers.length === wanted) break;
      if (character !== "\n") {
        digits += character;
        continue;
      }
      numbers.push(paxInteger(Buffer.from(digits), "sparse map", at));
      digits = "";
      if (numbers.length === 1) wanted = 1 + 2 * (numbers[0] as number);
      if (wanted > 1 + 2 * MAX_EXTENTS || wanted < 1) throw tooMany(at);
    }
    if (digits.length > 20) throw new ImageError("InvalidImage", `tar: no number in the sparse map at byte ${at}`);
  }
  return { extents: pair(numbers.slice(1), at), mapBytes };
}

function check(map: SparseMap, stored: number, at: number): SparseMap {
  let end = 0;
  let sum = 0;
  for (const { offset, length } of map.extents) {
    if (offset < end || length < 0)
      throw new ImageError("InvalidImage", `tar: the sparse map at byte ${at} is not in order`);
    end = offset + length;
    sum += length;
  }
  if (end > map.size || map.size < 0)
    throw new ImageError("InvalidImage", `tar: the sparse map at byte ${at} goes past the file's end`);
  if (sum !== stored)
    throw new ImageError(
      "InvalidImage",
      `tar: the sparse map at byte ${at} does not add up to the stored ${stored} bytes`,
    );
  return { ...map, extents: map.extents.filter((extent) => extent.length > 0) };
}

function tooMany(at: number): ImageError {
  return new ImageError("LimitExceeded", `tar: the sparse map at byte ${at} has more than ${MAX_EXTENTS} extents`);
}
