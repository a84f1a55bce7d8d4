/**
 * A streaming tar reader for image layers: V7, ustar, pax (local and global), GNU long names, every GNU sparse format,
 * base-256 numbers, extended attributes (SCHILY.xattr.*). Names are raw bytes. It says what is in the archive; what that
 * means in a layer is apply.ts's.
 */
import { ImageError } from "../errors.ts";
import type { ByteReader } from "./byte-reader.ts";
import { parsePax, paxInteger, type PaxRecords, paxTime } from "./pax.ts";
import { isPaxSparse, readOldSparse, readPaxSparse, type SparseMap } from "./sparse.ts";
import { BLOCK, type Header, isZeroBlock, latin1, parseHeader } from "./tar-header.ts";

export type EntryType = "file" | "directory" | "symlink" | "hardlink" | "character" | "block" | "fifo";

export interface TarEntry {
  readonly type: EntryType;
  /** As the archive has it: not normalised. */
  readonly path: Uint8Array;
  /** Target of a symlink or hardlink. */
  readonly link: Uint8Array;
  /** Permission bits with setuid, setgid and sticky. */
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  /** Nanoseconds since the epoch. */
  readonly mtime: bigint;
  /** Length of a file's content, holes included; 0 for all else. */
  readonly size: number;
  readonly major: number;
  readonly minor: number;
  readonly xattrs: ReadonlyMap<string, Uint8Array>;
}

/** A piece of a file's content: bytes, good until the next piece is read, or the length of a hole. */
export type Piece = Uint8Array | number;

/** Bytes of a pax header or GNU long name. */
const EXTENSION_MAX = 1 << 20;
/** Extended headers before one entry, and pax records that apply to it. */
const HEADERS_MAX = 16;
const RECORDS_MAX = 100_000;
const XATTR = "SCHILY.xattr.";
const NO_XATTRS: ReadonlyMap<string, Uint8Array> = new Map();

const TYPES: Readonly<Record<string, EntryType>> = {
  "0": "file",
  "1": "hardlink",
  "2": "symlink",
  "3": "character",
  "4": "block",
  "5": "directory",
  "6": "fifo",
  "7": "file",
  S: "file",
  D: "directory",
};

export class TarReader {
  readonly #reader: ByteReader;
  #global: PaxRecords = [];
  /** Stored bytes of the current entry that are still to be read, and the padding after them. */
  #stored = 0;
  #padding = 0;
  #sparse: { map: SparseMap; index: number; within: number; position: number } | undefined;

  constructor(reader: ByteReader) {
    this.#reader = reader;
  }

  /** The next entry; what is left of the one before is passed over. Undefined at the archive's end. Throws InvalidImage. */
  async next(): Promise<TarEntry | undefined> {
    await this.#finish();
    let local: PaxRecords = [];
    let longPath: Uint8Array | undefined;
    let longLink: Uint8Array | undefined;
    for (let headers = 0; ; headers++) {
      const at = this.#reader.offset;
      if (headers > HEADERS_MAX)
        throw new ImageError(
          "LimitExceeded",
          `tar: more than ${HEADERS_MAX} extended headers before the entry at byte ${at}`,
        );
      const block = await this.#headerBlock();
      if (block === undefined) {
        if (local.length > 0 || longPath !== undefined || longLink !== undefined)
          throw new ImageError("InvalidImage", `tar: ends at byte ${at} within an entry's headers`);
        return undefined;
      }
      const header = parseHeader(block, at);
      if (header.size < 0) throw new ImageError("InvalidImage", `tar: negative size in the header at byte ${at}`);
      switch (header.type) {
        case "x":
        case "X":
          local = [...local, ...parsePax(await this.#extension(header, at), at)];
          break;
        case "g":
          this.#global = merge(this.#global, parsePax(await this.#extension(header, at), at));
          headers = 0;
          break;
        case "L":
          longPath = untilNul(await this.#extension(header, at));
          break;
        case "K":
          longLink = untilNul(await this.#extension(header, at));
          break;
        case "V":
          await this.#skip(header.size);
          break;
        default:
          return await this.#entry(header, block, at, merge(this.#global, local), longPath, longLink);
      }
    }
  }

  /** The next piece of the current file's content; undefined at its end. */
  async read(): Promise<Piece | undefined> {
    const sparse = this.#sparse;
    if (sparse === undefined) return this.#stored === 0 ? undefined : await this.#piece(this.#stored);
    const extent = sparse.map.extents[sparse.index];
    const until = extent === undefined ? sparse.map.size : extent.offset;
    if (sparse.position < until) {
      const hole = until - sparse.position;
      sparse.position = until;
      return hole;
    }
    if (extent === undefined) return undefined;
    const piece = await this.#piece(extent.length - sparse.within);
    sparse.within += piece.length;
    sparse.position += piece.length;
    if (sparse.within === extent.length) {
      sparse.index++;
      sparse.within = 0;
    }
    return piece;
  }

  async #entry(
    header: Header,
    block: Uint8Array,
    at: number,
    records: PaxRecords,
    longPath: Uint8Array | undefined,
    longLink: Uint8Array | undefined,
  ): Promise<TarEntry> {
    const said = readRecords(records, at);
    const path = said.path ?? longPath ?? header.path;
    const link = said.link ?? longLink ?? header.link;
    const type = this.#type(header, path, at);
    const stored = said.size ?? header.size;
    if (stored < 0) throw new ImageError("InvalidImage", `tar: negative size in the header at byte ${at}`);
    const hasData = type === "file" || header.type === "D";
    this.#stored = hasData ? stored : 0;
    this.#padding = hasData ? (BLOCK - (stored % BLOCK)) % BLOCK : 0;
    const map = type === "file" ? await this.#sparseMap(header, block, records) : undefined;
    this.#sparse = map === undefined ? undefined : { map, index: 0, within: 0, position: 0 };
    return {
      type,
      path: checkName(path, at),
      link: type === "symlink" || type === "hardlink" ? checkName(link, at) : EMPTY,
      mode: header.mode & 0o7777,
      uid: checkId(said.uid ?? header.uid, "uid", at),
      gid: checkId(said.gid ?? header.gid, "gid", at),
      mtime: said.mtime ?? BigInt(header.mtime) * 1_000_000_000n,
      size: type === "file" ? (map?.size ?? stored) : 0,
      major: checkId(said.major ?? header.major, "major device number", at),
      minor: checkId(said.minor ?? header.minor, "minor device number", at),
      xattrs: said.xattrs ?? NO_XATTRS,
    };
  }

  #type(header: Header, path: Uint8Array, at: number): EntryType {
    const type = TYPES[header.type];
    if (type === undefined)
      throw new ImageError(
        "InvalidImage",
        `tar: entry "${printable(path)}" at byte ${at} has the unknown type ${JSON.stringify(header.type)}`,
      );
    // Before ustar had a type for directories, a trailing slash was the sign.
    return type === "file" && header.type === "0" && path.at(-1) === 0x2f ? "directory" : type;
  }

  async #sparseMap(header: Header, block: Uint8Array, records: PaxRecords): Promise<SparseMap | undefined> {
    if (header.type === "S") {
      if (header.format !== "gnu")
        throw new ImageError(
          "InvalidImage",
          `tar: the header before byte ${this.#reader.offset} is of GNU's sparse files and not in GNU's format`,
        );
      return await readOldSparse(block, this.#reader, this.#stored);
    }
    if (!isPaxSparse(records)) return undefined;
    const map = await readPaxSparse(records, this.#reader, this.#stored);
    this.#stored -= map.mapBytes;
    return map;
  }

  async #piece(max: number): Promise<Uint8Array> {
    const piece = await this.#reader.some(Math.min(max, this.#stored));
    if (piece === undefined) throw truncated(this.#reader.offset);
    this.#stored -= piece.length;
    return piece;
  }

  async #finish(): Promise<void> {
    const stored = this.#stored;
    const rest = stored + this.#padding;
    this.#stored = 0;
    this.#padding = 0;
    this.#sparse = undefined;
    if (rest === 0 || this.#reader.take(rest) !== undefined) return;
    // umoci's archives end with the last file's content, its padding left out; Go's reader takes them too.
    if ((await this.#reader.skip(rest)) < stored) throw truncated(this.#reader.offset);
  }

  async #skip(size: number): Promise<void> {
    this.#stored = size;
    this.#padding = (BLOCK - (size % BLOCK)) % BLOCK;
    await this.#finish();
  }

  /** Undefined at the end: two zero blocks, or nothing more (some writers leave the blocks out). */
  async #headerBlock(): Promise<Uint8Array | undefined> {
    // Copies, which Buffer's slice() does not make: a chunk has no bytes any more once the next one is asked for.
    const block = new Uint8Array(this.#reader.take(BLOCK) ?? (await this.#reader.exactly(BLOCK)));
    if (block.length === 0) return undefined;
    if (block.length < BLOCK) throw truncated(this.#reader.offset);
    if (!isZeroBlock(block)) return block;
    const second = await this.#reader.exactly(BLOCK);
    if (second.length > 0 && !isZeroBlock(second))
      throw new ImageError("InvalidImage", `tar: a lone zero block before byte ${this.#reader.offset}`);
    return undefined;
  }

  async #extension(header: Header, at: number): Promise<Uint8Array> {
    if (header.size > EXTENSION_MAX)
      throw new ImageError(
        "LimitExceeded",
        `tar: the extended header at byte ${at} is longer than ${EXTENSION_MAX} bytes`,
      );
    const data = new Uint8Array(await this.#reader.exactly(header.size));
    if (data.length < header.size) throw truncated(this.#reader.offset);
    this.#padding = (BLOCK - (header.size % BLOCK)) % BLOCK;
    await this.#finish();
    return data;
  }
}

interface Said {
  path?: Uint8Array;
  link?: Uint8Array;
  size?: number;
  uid?: number;
  gid?: number;
  mtime?: bigint;
  major?: number;
  minor?: number;
  xattrs?: Map<string, Uint8Array>;
}

function readRecords(records: PaxRecords, at: number): Said {
  const said: Said = {};
  let sparseName: Uint8Array | undefined;
  for (const [key, value] of records) {
    if (key.startsWith(XATTR)) (said.xattrs ??= new Map()).set(key.slice(XATTR.length), value);
    else if (value.length === 0) continue;
    else if (key === "path") said.path = value;
    else if (key === "linkpath") said.link = value;
    else if (key === "size") said.size = paxInteger(value, key, at);
    else if (key === "uid") said.uid = paxInteger(value, key, at);
    else if (key === "gid") said.gid = paxInteger(value, key, at);
    else if (key === "mtime") said.mtime = paxTime(value, key, at);
    else if (key === "SCHILY.devmajor") said.major = paxInteger(value, key, at);
    else if (key === "SCHILY.devminor") said.minor = paxInteger(value, key, at);
    else if (key === "GNU.sparse.name") sparseName = value;
  }
  if (sparseName !== undefined) said.path = sparseName;
  return said;
}

/** An entry's records over the global ones; an empty value takes a global record back. */
function merge(global: PaxRecords, local: PaxRecords): PaxRecords {
  if (global.length === 0) return local;
  if (global.length + local.length > RECORDS_MAX)
    throw new ImageError("LimitExceeded", `tar: more than ${RECORDS_MAX} pax records apply to one entry`);
  const overridden = new Set(local.map(([key]) => key));
  return [...global.filter(([key]) => !overridden.has(key)), ...local];
}

function checkName(name: Uint8Array, at: number): Uint8Array {
  if (name.includes(0)) throw new ImageError("InvalidImage", `tar: the entry at byte ${at} has a NUL in its name`);
  return name;
}

function checkId(id: number, name: string, at: number): number {
  if (id < 0 || id > 0xffffffff)
    throw new ImageError("InvalidImage", `tar: the ${name} ${id} at byte ${at} is out of range`);
  return id;
}

function untilNul(data: Uint8Array): Uint8Array {
  const end = data.indexOf(0);
  return end < 0 ? data : data.subarray(0, end);
}

function truncated(offset: number): ImageError {
  return new ImageError("InvalidImage", `tar: truncated at byte ${offset}`);
}

/** A name for a message: what is not printable ASCII is escaped. */
export function printable(name: Uint8Array): string {
  return latin1(name).replace(
    /[^\x20-\x7e]/g,
    (character) => `\\x${character.charCodeAt(0).toString(16).padStart(2, "0")}`,
  );
}

const EMPTY = new Uint8Array(0);
