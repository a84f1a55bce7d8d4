/** Archives made of others by changes that know the format: fields, pax records, members; checksums are put right again. */
import { paxRecord, seal } from "./tar-writer.ts";

/** A whole number from 0 up to, not including, the limit. */
export type Random = (below: number) => number;

/** mulberry32: the same numbers of the same seed. */
export function randomOf(seed: number): Random {
  let state = seed >>> 0;
  return (below) => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return Math.floor((((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32) * below);
  };
}

const BLOCK = 512;

interface Member {
  header: Buffer;
  data: Buffer;
}

const TYPES = "00001234567xxggLKSSDVXNAM\0\xff";
const NAMES = [
  "",
  ".",
  "..",
  "/",
  "./",
  "a",
  "a/",
  "a/b",
  "a//b/./c",
  "../../x",
  "a/../../../y",
  "/abs",
  ".wh.a",
  ".wh.",
  ".wh..",
  ".wh..wh..opq",
  "a/.wh..wh..opq",
  ".wh..wh.plnk/1",
  ".wh.d/x",
  "d",
  "d/file",
  "link",
  "link/through",
  "\xff\xfe\x01",
  "n".repeat(100),
  `${"p".repeat(60)}/${"q".repeat(60)}`,
  "n".repeat(256),
  "z/".repeat(2000),
];
const NUMBERS = [
  0,
  1,
  2,
  3,
  5,
  511,
  512,
  513,
  1000,
  1023,
  1024,
  1025,
  4095,
  4096,
  4097,
  65_535,
  65_536,
  2 ** 31,
  2 ** 32 - 1,
  2 ** 32,
  8 ** 11 - 1,
  2 ** 50,
  2 ** 53,
  -1,
  -512,
];
/** Where the header has numbers: offset and length. */
const FIELDS = [
  [100, 8],
  [108, 8],
  [116, 8],
  [124, 12],
  [136, 12],
  [329, 8],
  [337, 8],
  [386, 12],
  [398, 12],
  [410, 12],
  [422, 12],
  [483, 12],
] as const;
const TEXTS = [
  [0, 100],
  [157, 100],
  [345, 155],
] as const;
const MAGICS = ["ustar\x0000", "ustar  \0", "\0\0\0\0\0\0\0\0", "ustar\0\0\0"];
const KEYS = [
  "path",
  "linkpath",
  "size",
  "uid",
  "gid",
  "mtime",
  "SCHILY.devmajor",
  "SCHILY.xattr.user.a",
  "SCHILY.xattr.trusted.overlay.opaque",
  "SCHILY.xattr.security.capability",
  "SCHILY.xattr.strange",
  "SCHILY.xattr.",
  "GNU.sparse.size",
  "GNU.sparse.realsize",
  "GNU.sparse.numblocks",
  "GNU.sparse.map",
  "GNU.sparse.offset",
  "GNU.sparse.numbytes",
  "GNU.sparse.major",
  "GNU.sparse.minor",
  "GNU.sparse.name",
  "comment",
  "",
];
const VALUES = [
  "",
  "0",
  "1",
  "-1",
  "1.5",
  "-0.25",
  "1e3",
  "12345678901234567890",
  "0,5",
  "0,5,10,1",
  "5,0",
  "1,",
  "4294967296",
  "x",
  "1000000,5",
  "2000000",
];

const pick = <T>(random: Random, items: ArrayLike<T>): T => items[random(items.length)] as T;

/** Members of others in another order, left out or twice: as well-formed as they were. */
export function shuffle(seeds: readonly Buffer[], random: Random): Buffer {
  const members = [...split(pick(random, seeds)), ...split(pick(random, seeds))];
  for (let at = members.length - 1; at > 0; at--) {
    // An extended header stays before its entry.
    const [from, to] = [wholeAt(members, at), wholeAt(members, random(at + 1))];
    if (from > to) members.splice(to, 0, ...members.splice(from, wholeLength(members, from)));
  }
  return Buffer.concat([...members.flatMap(({ header, data }) => [header, data]), Buffer.alloc(2 * BLOCK)]);
}

const isExtension = ({ header }: Member): boolean => "xgLK".includes(String.fromCharCode(header[156] as number));

/** Where the entry begins, with its extended headers, that has something at `at`. */
function wholeAt(members: readonly Member[], at: number): number {
  let begin = at;
  while (begin > 0 && isExtension(members[begin - 1] as Member)) begin--;
  return begin;
}

function wholeLength(members: readonly Member[], begin: number): number {
  let end = begin;
  while (end < members.length - 1 && isExtension(members[end] as Member)) end++;
  return end - begin + 1;
}

export function mutate(seeds: readonly Buffer[], random: Random): Buffer {
  const members = split(pick(random, seeds));
  for (let left = 1 + random(4); left > 0; left--) change(members, seeds, random);
  const whole = Buffer.concat([...members.flatMap(({ header, data }) => [header, data]), Buffer.alloc(2 * BLOCK)]);
  return random(12) === 0 ? whole.subarray(0, random(whole.length)) : whole;
}

function split(archive: Buffer): Member[] {
  const members: Member[] = [];
  for (let at = 0; at + BLOCK <= archive.length && archive[at] !== 0;) {
    const header = Buffer.from(archive.subarray(at, at + BLOCK));
    const size = parseInt(header.toString("latin1", 124, 136), 8) || 0;
    const end = at + BLOCK + Math.ceil(size / BLOCK) * BLOCK;
    members.push({ header, data: Buffer.from(archive.subarray(at + BLOCK, end)) });
    at = end;
  }
  return members;
}

function change(members: Member[], seeds: readonly Buffer[], random: Random): void {
  const at = random(members.length);
  const member = members[at];
  if (member === undefined) return void members.push(...split(pick(random, seeds)));
  switch (random(12)) {
    case 0:
      return void members.splice(at, 1);
    case 1:
      return void members.splice(random(members.length + 1), 0, {
        header: Buffer.from(member.header),
        data: Buffer.from(member.data),
      });
    case 2: {
      const others = split(pick(random, seeds));
      return void members.splice(at, 0, ...others.slice(random(others.length)));
    }
    case 3: {
      const other = random(members.length);
      members[at] = members[other] as Member;
      members[other] = member;
      return;
    }
    case 4:
      member.data =
        random(2) === 0 ? member.data.subarray(0, random(member.data.length + 1)) : flipped(member.data, random);
      return;
    case 5:
      if (!"xg".includes(String.fromCharCode(member.header[156] as number)))
        return void members.splice(at, 0, extended(random));
      member.data = records(random);
      writeNumber(member.header, 124, 12, random(4) === 0 ? random(2000) : pax(member));
      break;
    case 6:
      member.header[156] = pick(random, TYPES).charCodeAt(0);
      break;
    case 7:
      member.header.write(pick(random, MAGICS), 257, "latin1");
      break;
    case 8:
      member.header = flipped(member.header, random);
      if (random(4) === 0) return;
      break;
    case 9:
    case 10: {
      const [offset, length] = pick(random, FIELDS);
      writeNumber(member.header, offset, length, pick(random, NUMBERS));
      break;
    }
    default: {
      const [offset, length] = pick(random, TEXTS);
      member.header.fill(0, offset, offset + length);
      member.header.write(pick(random, NAMES).slice(0, length), offset, "latin1");
    }
  }
  seal(member.header);
}

function flipped(bytes: Buffer, random: Random): Buffer {
  const copy = Buffer.from(bytes);
  for (let left = 1 + random(4); left > 0 && copy.length > 0; left--) copy[random(copy.length)] = random(256);
  return copy;
}

/** In octal, or GNU's base-256 where that is too short. */
function writeNumber(header: Buffer, offset: number, length: number, value: number): void {
  const digits = value.toString(8);
  if (value >= 0 && digits.length < length)
    return void header.write(`${digits.padStart(length - 1, "0")}\0`, offset, "latin1");
  header.fill(value < 0 ? 0xff : 0, offset, offset + length);
  header.writeBigInt64BE(BigInt(value), offset + length - 8);
  header[offset] = value < 0 ? 0xff : (header[offset] as number) | 0x80;
}

function extended(random: Random): Member {
  const header = Buffer.alloc(BLOCK);
  const data = records(random);
  header.write("pax", 0, "latin1");
  header.write(random(5) === 0 ? "g" : "x", 156, "latin1");
  header.write("ustar\x0000", 257, "latin1");
  writeNumber(header, 124, 12, data.indexOf(0) < 0 ? data.length : data.lastIndexOf("\n") + 1);
  return { header: seal(header), data };
}

const pax = ({ data }: Member): number => data.lastIndexOf("\n") + 1;

function records(random: Random): Buffer {
  const parts: Buffer[] = [];
  for (let left = 1 + random(4); left > 0; left--)
    parts.push(paxRecord(pick(random, KEYS), Buffer.from(pick(random, random(2) === 0 ? NAMES : VALUES), "latin1")));
  const bytes = random(6) === 0 ? flipped(Buffer.concat(parts), random) : Buffer.concat(parts);
  return Buffer.concat([bytes, Buffer.alloc((BLOCK - (bytes.length % BLOCK)) % BLOCK)]);
}
