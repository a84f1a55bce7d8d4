/** Durations as Go writes them: "60s", "1h30m", "1.5s", and "infinite". */
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

/** ms; Infinity for "infinite". Throws Error. */
export function parseDuration(text: string): number {
  if (text === "infinite") return Infinity;
  if (text === "0") return 0;
  const part = /(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)/y;
  let total = 0;
  do {
    const match = part.exec(text);
    if (!match) throw new Error(`invalid duration "${text}": it is like 60s, 1h30m, or infinite`);
    total += Number(match[1]) * (UNITS[match[2] ?? ""] ?? 0);
  } while (part.lastIndex < text.length);
  return total;
}
