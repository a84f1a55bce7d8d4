/** Trying again: which failures pass by themselves, and how long to wait. */
import { setTimeout as delay } from "node:timers/promises";
import { canceled, type ImageError } from "../errors.ts";

export interface RetryPolicy {
  readonly attempts: number;
  /** Where no connection is to be had at all, which passes soon (a restart) or not for long. Default 3. */
  readonly unreachedAttempts?: number;
  /** Milliseconds before the second attempt; doubled for each further one, with up to half of it added at random. */
  readonly firstDelayMs: number;
  readonly maxDelayMs: number;
  /** The longest Retry-After that is waited for; a longer one fails at once. */
  readonly maxRetryAfterMs: number;
}

export const DEFAULT_RETRY: RetryPolicy = {
  attempts: 5,
  firstDelayMs: 200,
  maxDelayMs: 10_000,
  maxRetryAfterMs: 60_000,
};

const UNREACHED_ATTEMPTS = 3;
const UNREACHED = new Set([
  "ECONNREFUSED",
  "EHOSTUNREACH",
  "ENETUNREACH",
  "EHOSTDOWN",
  "ETIMEDOUT",
  "ENOTFOUND",
  "EAI_AGAIN",
]);

/** Whether a connection could not be made, to the host or to the proxy before it. */
export function isUnreached({ cause }: Error): boolean {
  if (!(cause instanceof Error)) return false;
  return UNREACHED.has((cause as NodeJS.ErrnoException).code ?? "") || isUnreached(cause);
}

const TRANSIENT = new Set([408, 425, 429, 500, 502, 503, 504]);

export function isTransientStatus(status: number): boolean {
  return TRANSIENT.has(status);
}

/** An error that another attempt may not meet; `retryAfterMs` is what the server asked for. */
export class Transient extends Error {
  override readonly name = "Transient";
  readonly error: ImageError;
  readonly retryAfterMs: number | undefined;
  /** Nobody was there to hear the request. */
  readonly unreached: boolean;
  constructor(error: ImageError, retryAfterMs?: number) {
    super(error.message);
    this.error = error;
    this.retryAfterMs = retryAfterMs;
    this.unreached = isUnreached(error);
  }
}

/** Repeats `attempt` while it throws Transient; in the end throws the ImageError within. */
export async function retrying<T>(
  policy: RetryPolicy,
  signal: AbortSignal | undefined,
  attempt: (number: number) => Promise<T>,
): Promise<T> {
  for (let number = 1; ; number++) {
    try {
      return await attempt(number);
    } catch (error) {
      if (!(error instanceof Transient)) throw error;
      const attempts = error.unreached ? (policy.unreachedAttempts ?? UNREACHED_ATTEMPTS) : policy.attempts;
      if (number >= Math.min(attempts, policy.attempts)) throw error.error;
      if ((error.retryAfterMs ?? 0) > policy.maxRetryAfterMs) throw error.error;
      await pause(error.retryAfterMs ?? backoff(policy, number), signal);
    }
  }
}

export function backoff(policy: RetryPolicy, number: number): number {
  const base = Math.min(policy.maxDelayMs, policy.firstDelayMs * 2 ** (number - 1));
  return base * (1 + Math.random() / 2);
}

export async function pause(ms: number, signal: AbortSignal | undefined): Promise<void> {
  try {
    await delay(ms, undefined, signal === undefined ? {} : { signal });
  } catch (error) {
    throw signal === undefined ? error : canceled(signal, "waiting for the registry");
  }
}

/** Retry-After is seconds or an HTTP date (RFC 9110, 10.2.3). */
export function parseRetryAfter(header: string | undefined, now: number = Date.now()): number | undefined {
  if (header === undefined) return undefined;
  if (/^\s*\d+\s*$/.test(header)) return Number(header) * 1000;
  const date = Date.parse(header);
  return Number.isNaN(date) ? undefined : Math.max(0, date - now);
}
