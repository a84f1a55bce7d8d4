/** One-time tokens: what a streaming URL stands for, until it is used or a minute has passed. */
import { randomBytes } from "node:crypto";

const LIFETIME_MS = 60_000;
/** As containerd's: more than this many unused URLs at once is a client that does not use what it asks for. */
const MOST = 1000;

export class Tokens<T> {
  readonly #waiting = new Map<string, { readonly value: T; readonly timer: NodeJS.Timeout }>();

  issue(value: T): string {
    if (this.#waiting.size >= MOST)
      throw new Error(`more than ${MOST} streaming requests wait for their client; try again in a minute`);
    const token = randomBytes(18).toString("base64url");
    const timer = setTimeout(() => this.#waiting.delete(token), LIFETIME_MS);
    timer.unref();
    this.#waiting.set(token, { value, timer });
    return token;
  }

  /** The value, once; undefined for a token that was never issued, is used, or has expired. */
  redeem(token: string): T | undefined {
    const waiting = this.#waiting.get(token);
    if (!waiting) return undefined;
    clearTimeout(waiting.timer);
    this.#waiting.delete(token);
    return waiting.value;
  }
  clear(): void {
    for (const { timer } of this.#waiting.values()) clearTimeout(timer);
    this.#waiting.clear();
  }
}
