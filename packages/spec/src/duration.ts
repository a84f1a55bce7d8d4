/** Durations as Go's time.ParseDuration reads them, which is how containerd, runc and Kubernetes' tools write them. */

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
const PART = /(\d+(?:\.\d*)?|\.\d+)([a-zµμ]+)/y;

/** Milliseconds of "4h0m0s", "1.5s", "-300ms" or "0"; undefined: not a duration. `more`: units that Go does not have. */
export function parseDuration(text: string, more: Readonly<Record<string, number>> = {}): number | undefined {
  const body = text.replace(/^[+-]/, "");
  if (body === "0") return 0;
  if (body === "") return undefined;
  let total = 0;
  for (PART.lastIndex = 0; PART.lastIndex < body.length;) {
    const [, number, unit = ""] = PART.exec(body) ?? [];
    const ms = UNITS[unit] ?? more[unit];
    if (ms === undefined) return undefined;
    total += Number(number) * ms;
  }
  return text.startsWith("-") ? -total : total;
}
