/** "-" before a name: it is to be removed. */

/** The name, and whether it is to be removed. */
export const marked = (name: string): [name: string, isRemoved: boolean] =>
  name.startsWith("-") ? [name.slice(1), true] : [name, false];

export const removal = (name: string): string => `-${name}`;

/** Of a map: the keys that are to be removed, and the entries that are to be set. */
export function split<V>(entries: Readonly<Record<string, V>>): { removed: string[]; set: [string, V][] } {
  const all = Object.entries(entries);
  return {
    removed: all.flatMap(([key]) => (marked(key)[1] ? [marked(key)[0]] : [])),
    set: all.filter(([key]) => !marked(key)[1]),
  };
}
