/** `--filter key=value`: those with one key are alternatives, those with different keys must all hold, as docker has it. */
import { Failure } from "./failure.ts";

export type Filters<T> = Readonly<Record<string, (item: T, value: string) => boolean>>;

export function parseFilters<T>(texts: readonly string[], known: Filters<T>): (item: T) => boolean {
  const wanted = new Map<string, string[]>();
  for (const text of texts) {
    const equals = text.indexOf("=");
    const key = equals < 0 ? text : text.slice(0, equals);
    if (equals < 0 || !Object.hasOwn(known, key)) {
      throw new Failure(
        `--filter "${text}": use ${Object.keys(known)
          .map((name) => `${name}=…`)
          .join(", ")}`,
      );
    }
    wanted.set(key, [...(wanted.get(key) ?? []), text.slice(equals + 1)]);
  }
  return (item) => [...wanted].every(([key, values]) => values.some((value) => known[key]?.(item, value)));
}

/** "label=key" or "label=key=value". */
export function hasLabel(labels: Readonly<Record<string, string>>, text: string): boolean {
  const equals = text.indexOf("=");
  return equals < 0 ? text in labels : labels[text.slice(0, equals)] === text.slice(equals + 1);
}
