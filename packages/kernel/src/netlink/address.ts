/** Addresses between their words and their bytes. */
import { isIP, isIPv6 } from "node:net";

export const AF_INET = 2;
export const AF_INET6 = 10;

export const familyOf = (address: string): number => (isIPv6(address) ? AF_INET6 : AF_INET);

export function addressBytes(address: string): Buffer {
  const version = isIP(address);
  if (version === 0) throw new Error(`"${address}" is not an address`);
  return version === 4 ? Buffer.from(address.split(".").map(Number)) : ipv6Bytes(address);
}

function ipv6Bytes(address: string): Buffer {
  const dotted = /^(.*:)(\d+)\.(\d+)\.(\d+)\.(\d+)$/.exec(address);
  const plain = dotted
    ? `${dotted[1]}${((Number(dotted[2]) << 8) | Number(dotted[3])).toString(16)}:${((Number(dotted[4]) << 8) | Number(dotted[5])).toString(16)}`
    : address;
  const [head = "", tail] = plain.split("::");
  const words = (text: string): number[] =>
    text
      .split(":")
      .filter(Boolean)
      .map((word) => Number.parseInt(word, 16));
  const [first, last] = [words(head), words(tail ?? "")];
  const all = [...first, ...Array<number>(tail === undefined ? 0 : 8 - first.length - last.length).fill(0), ...last];
  const bytes = Buffer.alloc(16);
  for (const [index, word] of all.entries()) bytes.writeUInt16BE(word, index * 2);
  return bytes;
}

export function addressText(bytes: Buffer): string {
  if (bytes.length === 4) return bytes.join(".");
  const words = Array.from({ length: 8 }, (_, index) => bytes.readUInt16BE(index * 2).toString(16));
  const runs = [...words.join(":").matchAll(/(?:^|(?<=:))0(?::0)+(?=:|$)/g)].sort((a, b) => b[0].length - a[0].length);
  const [longest] = runs;
  if (!longest) return words.join(":");
  const text = words.join(":");
  const before = text.slice(0, longest.index).replace(/:$/, "");
  const after = text.slice(longest.index + longest[0].length).replace(/^:/, "");
  return `${before}::${after}`;
}

export const macText = (bytes: Buffer): string =>
  [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join(":");
export const macBytes = (mac: string): Buffer => Buffer.from(mac.split(":").map((byte) => Number.parseInt(byte, 16)));
