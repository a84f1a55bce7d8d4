/** Go's time.Duration, in milliseconds. */
const UNITS: Readonly<Record<string, number>> = {
  ns: 1e-6,
  us: 1e-3,
  µs: 1e-3,
  μs: 1e-3,
  ms: 1,
  s: 1000,
  m: 60_000,
  h: 3_600_000,
};

/** "1h15m30.5s"; undefined: not one. */
export function parseDuration(text: string): number | undefined {
  const [, sign = "", rest = ""] = /^([+-]?)(.*)$/s.exec(text) ?? [];
  if (rest === "0") return 0;
  if (!/^(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)((\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h))*$/.test(rest))
    return undefined;
  let ms = 0;
  for (const [, number, unit] of rest.matchAll(/([\d.]+)([a-zµμ]+)/g)) ms += Number(number) * (UNITS[unit ?? ""] ?? 0);
  return sign === "-" ? -ms : ms;
}

/** As Duration.String() for whole milliseconds. */
export function formatDuration(ms: number): string {
  if (ms === 0) return "0s";
  if (Math.abs(ms) < 1000) return `${ms}ms`;
  const [hours, minutes] = [Math.trunc(ms / 3_600_000), Math.trunc((ms % 3_600_000) / 60_000)];
  const seconds = `${(ms % 60_000) / 1000}s`;
  return hours !== 0 ? `${hours}h${Math.abs(minutes)}m${seconds}` : minutes !== 0 ? `${minutes}m${seconds}` : seconds;
}
