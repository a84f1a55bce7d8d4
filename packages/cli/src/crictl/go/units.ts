/** docker/go-units: ages and sizes in words. */

export function humanDuration(ms: number): string {
  const seconds = Math.trunc(ms / 1000);
  const minutes = Math.trunc(ms / 60_000);
  const exact = ms / 3_600_000;
  const hours = Math.trunc(exact + 0.5);
  if (seconds < 1) return "Less than a second";
  if (seconds === 1) return "1 second";
  if (seconds < 60) return `${seconds} seconds`;
  if (minutes === 1) return "About a minute";
  if (minutes < 60) return `${minutes} minutes`;
  if (hours === 1) return "About an hour";
  if (hours < 48) return `${hours} hours`;
  if (hours < 24 * 7 * 2) return `${Math.trunc(hours / 24)} days`;
  if (hours < 24 * 30 * 2) return `${Math.trunc(hours / 24 / 7)} weeks`;
  if (hours < 24 * 365 * 2) return `${Math.trunc(hours / 24 / 30)} months`;
  return `${Math.trunc(Math.trunc(exact) / 24 / 365)} years`;
}

/** `at` in ns since the epoch. */
export const ago = (at: bigint): string => `${humanDuration(Date.now() - Number(at / 1_000_000n))} ago`;

const SUFFIXES = ["B", "kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"];

/** `precision`: significant digits. */
export function humanSize(bytes: number, precision = 4): string {
  let [size, unit] = [bytes, 0];
  for (; size >= 1000 && unit < SUFFIXES.length - 1; unit++) size /= 1000;
  return `${Number(size.toPrecision(precision))}${SUFFIXES[unit]}`;
}
