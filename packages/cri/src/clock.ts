/** Nanoseconds since the epoch (of a millisecond's precision, as Node gives it). */
export const now = (): bigint => BigInt(Date.now()) * 1_000_000n;

/** The same to a microsecond, for how long things take. */
export const instant = (): bigint => BigInt(Math.round((performance.timeOrigin + performance.now()) * 1000)) * 1000n;
