/** Messages of rtnetlink(7) as bytes: what order `netlink` sends, and what it hears back. In the machine's byte order, which is little. */

/** A whole message; bosun gives it its number and asks for an acknowledgement. */
export function netlinkMessage(
  type: number,
  flags: number,
  fixed: Uint8Array,
  attributes: readonly Uint8Array[] = [],
): Buffer {
  const body = Buffer.concat([fixed, padding(fixed.length), ...attributes]);
  const header = Buffer.alloc(HEADER);
  header.writeUInt32LE(HEADER + body.length, 0);
  header.writeUInt16LE(type, 4);
  header.writeUInt16LE(flags, 6);
  return Buffer.concat([header, body]);
}

const HEADER = 16;
const ATTRIBUTE_HEADER = 4;
/** NLA_TYPE_MASK: without the bits that mark a nest and the network's byte order. */
const TYPE_MASK = 0x3fff;

const padding = (size: number): Buffer => Buffer.alloc((4 - (size % 4)) % 4);

export function attribute(type: number, value: Uint8Array): Buffer {
  const header = Buffer.alloc(ATTRIBUTE_HEADER);
  header.writeUInt16LE(ATTRIBUTE_HEADER + value.length, 0);
  header.writeUInt16LE(type, 2);
  return Buffer.concat([header, value, padding(value.length)]);
}

export const nested = (type: number, attributes: readonly Uint8Array[]): Buffer =>
  attribute(type, Buffer.concat(attributes));
export const textAttribute = (type: number, text: string): Buffer => attribute(type, Buffer.from(`${text}\0`));

export function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value >>> 0);
  return bytes;
}

export interface NetlinkMessage {
  readonly type: number;
  readonly flags: number;
  readonly body: Buffer;
}

/** Throws where they are cut off. */
export function parseMessages(bytes: Uint8Array): NetlinkMessage[] {
  const all = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const messages: NetlinkMessage[] = [];
  for (let at = 0; at < all.length;) {
    const size = at + HEADER <= all.length ? all.readUInt32LE(at) : 0;
    if (size < HEADER || at + size > all.length)
      throw new Error(`netlink: a message of ${size} bytes at ${at} of ${all.length}`);
    messages.push({
      type: all.readUInt16LE(at + 4),
      flags: all.readUInt16LE(at + 6),
      body: all.subarray(at + HEADER, at + size),
    });
    at += size + ((4 - (size % 4)) % 4);
  }
  return messages;
}

/** By type; the last of several of one type. */
export function parseAttributes(bytes: Buffer): Map<number, Buffer> {
  const found = new Map<number, Buffer>();
  for (let at = 0; at + ATTRIBUTE_HEADER <= bytes.length;) {
    const size = bytes.readUInt16LE(at);
    if (size < ATTRIBUTE_HEADER || at + size > bytes.length)
      throw new Error(`netlink: an attribute of ${size} bytes at ${at} of ${bytes.length}`);
    found.set(bytes.readUInt16LE(at + 2) & TYPE_MASK, bytes.subarray(at + ATTRIBUTE_HEADER, at + size));
    at += size + ((4 - (size % 4)) % 4);
  }
  return found;
}

export const textOf = (bytes: Buffer | undefined): string => bytes?.toString("utf8").replace(/\0.*$/s, "") ?? "";
