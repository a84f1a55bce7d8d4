/** Nanoseconds since the epoch (of a millisecond's precision, as Node gives it). */
export const now = (): bigint => BigInt(Date.now()) * 1_000_000n;
