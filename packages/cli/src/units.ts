/** Sizes and durations as people write and read them. */
import { parseDuration } from "@berth/spec/oci";
import { Failure } from "./failure.ts";

const BYTE_UNITS: Readonly<Record<string, number>> = {
  "": 1,
  b: 1,
  k: 2 ** 10,
  m: 2 ** 20,
  g: 2 ** 30,
  t: 2 ** 40,
  p: 2 ** 50,
};

/** Bytes of "512m", "1.5g", "64KiB" or "1048576"; units are powers of 1024, as docker's. `option` is named in errors. */
export function parseBytes(text: string, option: string): bigint {
  const match = /^(\d+(?:\.\d+)?)\s*([kmgtp]?)(?:i?b)?$|^(\d+)b$/i.exec(text.trim());
  const unit = BYTE_UNITS[(match?.[2] ?? "").toLowerCase()];
  if (!match || unit === undefined)
    throw new Failure(`${option}: "${text}" is not a size: use a number with an optional unit, as in 512m or 1g`);
  return BigInt(Math.round(Number(match[1] ?? match[3]) * unit));
}

const SIZE_NAMES = ["B", "kB", "MB", "GB", "TB", "PB"];

/** "12.3MB": powers of 1000 and three digits, as docker prints sizes. */
export function humanSize(bytes: bigint | number): string {
  let value = Number(bytes);
  let index = 0;
  while (value >= 999.5 && index < SIZE_NAMES.length - 1) {
    value /= 1000;
    index++;
  }
  return `${index === 0 ? value : Number(value.toPrecision(3))}${SIZE_NAMES[index]}`;
}

const BINARY_NAMES = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

/** "1.5GiB": powers of 1024, as docker prints memory. */
export function humanMemory(bytes: bigint | number): string {
  let value = Number(bytes);
  let index = 0;
  while (value >= 1023.5 && index < BINARY_NAMES.length - 1) {
    value /= 1024;
    index++;
  }
  return `${index === 0 ? value : Number(value.toPrecision(4))}${BINARY_NAMES[index]}`;
}

const DAYS = { d: 86_400_000 };

/** Milliseconds of "90s", "1h30m", "1.5h" or "2d"; undefined for anything else. */
export function parseSpan(text: string): number | undefined {
  const ms = parseDuration(text, DAYS);
  return ms === undefined || ms < 0 ? undefined : ms;
}

const MINUTE = 60;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;

/** "About a minute", "3 hours", "2 weeks": docker's words for a span of time. */
export function humanDuration(milliseconds: number): string {
  const seconds = Math.floor(Math.max(0, milliseconds) / 1000);
  if (seconds < 1) return "Less than a second";
  if (seconds === 1) return "1 second";
  if (seconds < MINUTE) return `${seconds} seconds`;
  if (seconds < 2 * MINUTE) return "About a minute";
  if (seconds < HOUR) return `${Math.floor(seconds / MINUTE)} minutes`;
  const hours = Math.round(seconds / HOUR);
  if (hours === 1) return "About an hour";
  if (hours < 48) return `${hours} hours`;
  const days = Math.floor(seconds / DAY);
  if (days < 14) return `${days} days`;
  if (days < 60) return `${Math.floor(days / 7)} weeks`;
  if (days < 730) return `${Math.floor(days / 30)} months`;
  return `${Math.floor(days / 365)} years`;
}

const NANOSECONDS = 1_000_000n;

export const millisecondsOf = (nanoseconds: bigint): number => Number(nanoseconds / NANOSECONDS);

/** "3 minutes ago", or "" for a time that is not set. */
export const ago = (nanoseconds: bigint, now: number): string =>
  nanoseconds === 0n ? "" : `${humanDuration(now - millisecondsOf(nanoseconds))} ago`;

/** RFC 3339 with nanoseconds, or undefined for a time that is not set. */
export function rfc3339(nanoseconds: bigint): string | undefined {
  if (nanoseconds <= 0n) return undefined;
  const seconds = new Date(millisecondsOf(nanoseconds)).toISOString().slice(0, -"000Z".length);
  return `${seconds}${String(nanoseconds % 1_000_000_000n).padStart(9, "0")}Z`;
}

/** The moment, in milliseconds since the epoch, that "10m" (ago), an RFC 3339 time or a unix time names. */
export function parseMoment(text: string, option: string, now: number): number {
  const span = parseSpan(text);
  if (span !== undefined) return now - span;
  if (/^\d+(\.\d+)?$/.test(text)) return Number(text) * 1000;
  const time = /^\d{4}-\d{2}-\d{2}/.test(text) ? Date.parse(text) : NaN;
  if (Number.isNaN(time))
    throw new Failure(
      `${option}: "${text}" is not a time: use a span as in 10m, an RFC 3339 time as in 2026-01-02T15:04:05Z, or a unix time`,
    );
  return time;
}
