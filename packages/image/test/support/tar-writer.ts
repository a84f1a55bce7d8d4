/** Writes tar archives for tests, including ones that no honest program writes. */
export interface Member {
  readonly name: string | Uint8Array;
  readonly type?: string;
  readonly data?: Uint8Array | string;
  readonly mode?: number;
  readonly uid?: number;
  readonly gid?: number;
  readonly mtime?: number;
  readonly link?: string | Uint8Array;
  readonly major?: number;
  readonly minor?: number;
  /** Says another size than the data has. */
  readonly size?: number;
  /** Records of a pax header before it. */
  readonly pax?: Readonly<Record<string, string | Uint8Array>>;
}

const BLOCK = 512;

function bytesOf(value: string | Uint8Array): Uint8Array {
  return typeof value === "string" ? Buffer.from(value) : value;
}

function octal(value: number, length: number): string {
  return (
    value
      .toString(8)
      .padStart(length - 1, "0")
      .slice(-(length - 1)) + "\0"
  );
}

export function header(member: Member, size: number): Buffer {
  const block = Buffer.alloc(BLOCK);
  Buffer.from(bytesOf(member.name)).copy(block, 0, 0, 100);
  block.write(octal(member.mode ?? 0o644, 8), 100, "latin1");
  block.write(octal(member.uid ?? 0, 8), 108, "latin1");
  block.write(octal(member.gid ?? 0, 8), 116, "latin1");
  block.write(octal(member.size ?? size, 12), 124, "latin1");
  block.write(octal(member.mtime ?? 1_700_000_000, 12), 136, "latin1");
  block.write(member.type ?? "0", 156, "latin1");
  Buffer.from(bytesOf(member.link ?? "")).copy(block, 157, 0, 100);
  block.write("ustar\u000000", 257, "latin1");
  block.write(octal(member.major ?? 0, 8), 329, "latin1");
  block.write(octal(member.minor ?? 0, 8), 337, "latin1");
  return seal(block);
}

export function seal(block: Buffer): Buffer {
  block.fill(" ", 148, 156, "latin1");
  const sum = block.reduce((total, byte) => total + byte, 0);
  block.write(`${sum.toString(8).padStart(6, "0")}\0 `, 148, "latin1");
  return block;
}

function padded(data: Uint8Array): Buffer {
  return Buffer.concat([data, Buffer.alloc((BLOCK - (data.length % BLOCK)) % BLOCK)]);
}

export function paxRecord(key: string, value: string | Uint8Array): Buffer {
  const rest = Buffer.concat([Buffer.from(` ${key}=`), bytesOf(value), Buffer.from("\n")]);
  let length = rest.length + 1;
  while (String(length).length + rest.length !== length) length = String(length).length + rest.length;
  return Buffer.concat([Buffer.from(String(length)), rest]);
}

export function member(entry: Member): Buffer {
  const data = Buffer.from(bytesOf(entry.data ?? ""));
  const parts: Buffer[] = [];
  if (entry.pax !== undefined) {
    const records = Buffer.concat(Object.entries(entry.pax).map(([key, value]) => paxRecord(key, value)));
    parts.push(header({ name: "pax", type: "x" }, records.length), padded(records));
  }
  parts.push(header(entry, data.length), padded(data));
  return Buffer.concat(parts);
}

export function archive(...entries: readonly Member[]): Buffer {
  return Buffer.concat([...entries.map(member), Buffer.alloc(2 * BLOCK)]);
}

/** As a layer's chunks come: a Buffer that has no bytes any more once the next one is asked for. */
export function* givenBack(bytes: Uint8Array): Generator<Uint8Array, void, undefined> {
  const chunk = Buffer.from(new Uint8Array(bytes).buffer);
  yield chunk;
  chunk.buffer.transfer(0);
}
