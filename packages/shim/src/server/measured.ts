/** How long each call takes, told to who makes the containers. */
import type { Maker } from "./making.ts";

type Call = (...words: never[]) => unknown;

/** The same handlers; calls have the names of Kata's metrics: close_io, resize_pty. */
export function measured<T extends object>(handlers: T, maker: Promise<Maker>): T {
  let observe: Maker["observe"];
  maker.then(
    (own) => (observe = own.observe?.bind(own)),
    // Whoever asks for it is told why.
    () => undefined,
  );
  const timed =
    (verb: string, call: Call): Call =>
    async (...words) => {
      const begin = performance.now();
      try {
        return await call(...words);
      } finally {
        observe?.(performance.now() - begin, verb);
      }
    };
  const entries = Object.entries(handlers as Readonly<Record<string, Call>>);
  return Object.fromEntries(entries.map(([name, call]) => [name, timed(verbOf(name), call)])) as T;
}

const verbOf = (name: string): string => name.replaceAll(/(?<=[a-z])[A-Z]+/g, (word) => `_${word.toLowerCase()}`);
