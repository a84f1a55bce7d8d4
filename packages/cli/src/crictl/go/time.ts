/** Times as Go prints them, in the process's time zone. `ns` since the epoch. */

const pad = (value: number, size = 2): string => String(Math.abs(value)).padStart(size, "0");

function parts(ns: bigint) {
  const date = new Date(Number(ns / 1_000_000n));
  const fraction = (((ns % 1_000_000_000n) + 1_000_000_000n) % 1_000_000_000n)
    .toString()
    .padStart(9, "0")
    .replace(/0+$/, "");
  const minutes = -date.getTimezoneOffset();
  const zone = `${minutes < 0 ? "-" : "+"}${pad(Math.trunc(minutes / 60))}`;
  return {
    day: `${pad(date.getFullYear(), 4)}-${pad(date.getMonth() + 1)}-${pad(date.getDate())}`,
    time: `${pad(date.getHours())}:${pad(date.getMinutes())}:${pad(date.getSeconds())}${fraction && `.${fraction}`}`,
    zone,
    zoneMinutes: pad(minutes % 60),
    utc: minutes === 0,
    date,
  };
}

/** time.RFC3339Nano. undefined: the zero time. */
export function rfc3339(ns: bigint | undefined): string {
  if (ns === undefined) return "0001-01-01T00:00:00Z";
  const { day, time, zone, zoneMinutes, utc } = parts(ns);
  return `${day}T${time}${utc ? "Z" : `${zone}:${zoneMinutes}`}`;
}

/** Time.String(). */
export function timeString(ns: bigint): string {
  const { day, time, zone, zoneMinutes, utc, date } = parts(ns);
  const named = new Intl.DateTimeFormat("en-US", { timeZoneName: "short" }).formatToParts(date);
  const name = utc ? "UTC" : (named.find(({ type }) => type === "timeZoneName")?.value ?? "");
  return `${day} ${time} ${zone}${zoneMinutes} ${name}`;
}
