/** Which whole GPUs go together best: by how they reach each other, and by what is left for those who come later. */
import { AllocationError } from "../offer.ts";
import type { Preference } from "../offer.ts";

/** Above this many choices the best is looked for one GPU at a time. */
const MAX_CHOICES = 20_000;

/** `score`: of a pair. Throws AllocationError when there are not so many. */
export function preferredGpus(
  { available, must, size }: Preference,
  score: (one: string, other: string) => number,
): string[] {
  const left = available.filter((id) => !must.includes(id));
  const needed = size - must.length;
  if (needed < 0 || needed > left.length)
    throw new AllocationError(`${size} of ${available.length} available devices cannot be given`);
  const sum = (ids: readonly string[]): number =>
    ids.reduce((all, one, index) => all + ids.slice(index + 1).reduce((part, other) => part + score(one, other), 0), 0);
  if (choices(left.length, needed) > MAX_CHOICES) return greedy(left, must, needed, score);
  // Of equals, the one that leaves the best together.
  let best: { readonly chosen: string[]; readonly own: number; readonly rest: number } | undefined;
  for (const picked of combinations(left, needed)) {
    const chosen = [...must, ...picked];
    const own = sum(chosen);
    if (best && own < best.own) continue;
    const rest = sum(left.filter((id) => !picked.includes(id)));
    if (!best || own > best.own || rest > best.rest) best = { chosen, own, rest };
  }
  return best?.chosen ?? [...must];
}

function greedy(
  left: readonly string[],
  must: readonly string[],
  needed: number,
  score: (one: string, other: string) => number,
): string[] {
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

function* combinations(from: readonly string[], size: number, start = 0): Generator<string[]> {
  if (size === 0) {
    yield [];
    return;
  }
  for (let index = start; index <= from.length - size; index++)
    for (const rest of combinations(from, size - 1, index + 1)) yield [from[index] ?? "", ...rest];
}
