/** Lists of CPUs and memory nodes ("0-3,8") and the masks that system calls take (cpuset(7), "List format"). */

/** More than any kernel is configured for (NR_CPUS). */
const MOST = 8192;
const WORD_BYTES = 8;

/** Bytes of little-endian 64-bit words, bit n for number n. Undefined where the text is no list; an empty one is an empty mask. */
export function maskOfList(text: string): Uint8Array | undefined {
  const numbers: number[] = [];
  for (const part of text.split(",").map((one) => one.trim())) {
    if (part === "") continue;
    const match = /^(\d+)(?:-(\d+))?$/.exec(part);
    if (match === null) return undefined;
    const first = Number(match[1]);
    const last = Number(match[2] ?? match[1]);
    if (last < first || last >= MOST) return undefined;
    for (let number = first; number <= last; number++) numbers.push(number);
  }
  const highest = numbers.reduce((most, number) => Math.max(most, number), -1);
  const mask = new Uint8Array(Math.ceil((highest + 1) / (WORD_BYTES * 8)) * WORD_BYTES);
  for (const number of numbers) mask[number >> 3] = (mask[number >> 3] ?? 0) | (1 << (number & 7));
  return mask;
}

/** The shortest list of a mask. */
export function listOfMask(mask: Uint8Array): string {
  const parts: string[] = [];
  const has = (number: number) => ((mask[number >> 3] ?? 0) & (1 << (number & 7))) !== 0;
  for (let number = 0; number < mask.length * 8; number++) {
    if (!has(number)) continue;
    const first = number;
    while (has(number + 1)) number++;
    parts.push(first === number ? String(first) : `${first}-${number}`);
  }
  return parts.join(",");
}
