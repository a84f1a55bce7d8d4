/** Sizes as docker's and containerd's settings have them: "10G", "512m", "20GiB", "4096". */

const UNITS: Readonly<Record<string, number>> = {
  "": 1,
  k: 2 ** 10,
  m: 2 ** 20,
  g: 2 ** 30,
  t: 2 ** 40,
  p: 2 ** 50,
};

/** In bytes; every unit is a power of 1024, as docker's RAMInBytes reads them. Undefined: it is no size. */
export function parseSize(text: string): number | undefined {
  const match = /^(\d+(?:\.\d+)?) ?(?:([kmgtp])i?b?|b)?$/i.exec(text.trim());
  if (!match) return undefined;
  const bytes = Math.round(Number(match[1]) * (UNITS[(match[2] ?? "").toLowerCase()] as number));
  return Number.isSafeInteger(bytes) ? bytes : undefined;
}
