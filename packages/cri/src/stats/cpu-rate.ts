/** CPU use as a rate: between two looks at the same owner's counter. */

interface Look {
  readonly at: bigint;
  readonly usedNs: bigint;
  readonly rate: bigint | undefined;
}

const looks = new WeakMap<object, Look>();

/** ns; looks closer together than this would measure the clock's grain. */
const SHORTEST = 100_000_000n;
const SECOND = 1_000_000_000n;

/**
 * Nanoseconds of CPU a second since the last look (a billion is one CPU in full). Undefined at the first look: nothing is
 * known of a rate then. Times are nanoseconds since the epoch.
 */
export function cpuRate(owner: object, usedNs: bigint, at: bigint): bigint | undefined {
  const last = looks.get(owner);
  if (last && at - last.at < SHORTEST) return last.rate;
  const rate = last && usedNs >= last.usedNs ? ((usedNs - last.usedNs) * SECOND) / (at - last.at) : undefined;
  looks.set(owner, { at, usedNs, rate });
  return rate;
}
