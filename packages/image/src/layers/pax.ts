/** Extended header records of POSIX.1-2017 (pax, "pax Extended Header"): "LENGTH KEY=VALUE\n", values as raw bytes. */
import { ImageError } from "../errors.ts";
import { latin1 } from "./tar-header.ts";

/** In order; keys repeat in GNU's sparse format 0.0. */
export type PaxRecords = readonly (readonly [key: string, value: Uint8Array])[];

export function parsePax(data: Uint8Array, at: number): PaxRecords {
  const bad = (why: string): ImageError => new ImageError("InvalidImage", `tar: the pax header at byte ${at} ${why}`);
  const records: [string, Uint8Array][] = [];
  let i = 0;
  while (i < data.length && data[i] !== 0) {
    const space = data.indexOf(0x20, i);
    const digits = space < 0 || space - i > 10 ? "" : latin1(data.subarray(i, space));
    if (!/^[0-9]+$/.test(digits)) throw bad("has a record without a length");
    const end = i + Number(digits);
    if (end > data.length || end <= space || data[end - 1] !== 0x0a) throw bad("has a record of a wrong length");
    const equals = data.indexOf(0x3d, space + 1);
    if (equals < 0 || equals >= end) throw bad("has a record without a value");
    records.push([Buffer.from(data.subarray(space + 1, equals)).toString("utf8"), data.subarray(equals + 1, end - 1)]);
    i = end;
  }
  return records;
}

/** A decimal integer, as the records size, uid, gid and GNU.sparse.* have. */
export function paxInteger(value: Uint8Array, key: string, at: number): number {
  const digits = latin1(value);
  const number = Number(digits);
  if (!/^-?[0-9]+$/.test(digits) || !Number.isSafeInteger(number))
    throw new ImageError("InvalidImage", `tar: the pax record ${key} at byte ${at} is no integer within range`);
  return number;
}

/** Seconds with a fraction ("1700000000.123456789", negative before 1970), as nanoseconds; further digits are dropped. */
export function paxTime(value: Uint8Array, key: string, at: number): bigint {
  const match = /^(-?)([0-9]{1,19})(?:\.([0-9]*))?$/.exec(latin1(value));
  if (match === null) throw new ImageError("InvalidImage", `tar: the pax record ${key} at byte ${at} is no time`);
  const magnitude = BigInt(match[2] as string) * 1_000_000_000n + BigInt((match[3] ?? "").slice(0, 9).padEnd(9, "0"));
  return match[1] === "-" ? -magnitude : magnitude;
}
