/** Which whole GPUs go together best: by how they reach each other, and by what is left for those who come later. */
import { AllocationError } from "../offer.ts";
import type { Preference } from "../offer.ts";

/** Above this many ways the next simpler search is taken. */
const MAX_WAYS = 20_000;

type Score = (one: string, other: string) => number;

/** `score`: of a pair. Throws AllocationError when there are not so many. */
export function preferredGpus({ available, must, size }: Preference, score: Score): string[] {
  const left = available.filter((id) => !must.includes(id));
  const needed = size - must.length;
  if (needed < 0 || needed > left.length)
    throw new AllocationError(`${size} of ${available.length} available devices cannot be given`);
  if (needed === 0) return [...must];
  const all = [...must, ...left].sort((a, b) => available.indexOf(a) - available.indexOf(b));
  if (size > 1 && divisions(all.length, size) <= MAX_WAYS) return ofBestDivision(all, must, size, score);
  if (choices(left.length, needed) <= MAX_WAYS) return bestSet(left, must, needed, score);
  return greedy(left, must, needed, score);
}

const sumOf = (ids: readonly string[], score: Score): number =>
  ids.reduce((all, one, index) => all + ids.slice(index + 1).reduce((part, other) => part + score(one, other), 0), 0);

/**
 * All are divided into sets of `size`, and what remains, so that the sets' scores add up to the most: as those would get them who come
 * later. Of these sets the best that has all of `must` (as NVIDIA's best-effort policy).
 */
function ofBestDivision(all: readonly string[], must: readonly string[], size: number, score: Score): string[] {
  const hasAll = (set: readonly string[]): boolean => must.every((id) => set.includes(id));
  let best: { readonly total: number; readonly sets: readonly string[][] } | undefined;
  const divide = (rest: readonly string[], sets: readonly string[][], total: number): void => {
    if (rest.length === 0) {
      if ((!best || total > best.total) && sets.some((set) => set.length === size && hasAll(set)))
        best = { total, sets };
      return;
    }
    const [first = "", ...others] = rest;
    const remainder = rest.length % size;
    // The remainder is one set: who has the first device decides which.
    for (const length of remainder === 0 ? [size] : rest.length < size ? [remainder] : [size, remainder])
      for (const picked of combinations(others, length - 1)) {
        const set = [first, ...picked];
        const later = others.filter((id) => !picked.includes(id));
        divide(later, [...sets, set], total + sumOf(set, score));
      }
  };
  divide(all, [], 0);
  const fit = best?.sets.filter((set) => set.length === size && hasAll(set)) ?? [];
  const [chosen = []] = fit.toSorted((a, b) => sumOf(b, score) - sumOf(a, score));
  return [...must, ...chosen.filter((id) => !must.includes(id))];
}

/** The best by itself; of equals, the one that leaves the best together. */
function bestSet(left: readonly string[], must: readonly string[], needed: number, score: Score): string[] {
  let best: { readonly chosen: string[]; readonly own: number; readonly rest: number } | undefined;
  for (const picked of combinations(left, needed)) {
    const chosen = [...must, ...picked];
    const own = sumOf(chosen, score);
    if (best && own < best.own) continue;
    const rest = sumOf(
      left.filter((id) => !picked.includes(id)),
      score,
    );
    if (!best || own > best.own || rest > best.rest) best = { chosen, own, rest };
  }
  return best?.chosen ?? [...must];
}

/** One at a time. */
function greedy(left: readonly string[], must: readonly string[], needed: number, score: Score): string[] {
  const chosen = [...must];
  const rest = [...left];
  for (let count = 0; count < needed; count++) {
    const gain = (id: string): number => chosen.reduce((all, other) => all + score(id, other), 0);
    const best = rest.reduce((a, b) => (gain(b) > gain(a) ? b : a));
    rest.splice(rest.indexOf(best), 1);
    chosen.push(best);
  }
  return chosen;
}

function choices(from: number, size: number): number {
  let result = 1;
  for (let index = 1; index <= size; index++) result = (result * (from - size + index)) / index;
  return result;
}

/** Ways to divide `from` devices into sets of `size` and one remainder. */
function divisions(from: number, size: number): number {
  const sets = Math.floor(from / size);
  let result = 1;
  for (let index = 0; index < sets; index++) result = (result * choices(from - index * size, size)) / (index + 1);
  return result;
}

function* combinations(from: readonly string[], size: number, start = 0): Generator<string[]> {
  if (size === 0) {
    yield [];
    return;
  }
  for (let index = start; index <= from.length - size; index++)
    for (const rest of combinations(from, size - 1, index + 1)) yield [from[index] ?? "", ...rest];
}
