/** Plugins' names: two digits and what is after them, as in "10-logger" (NRI, pkg/api/plugin.go). */

/** What is wrong with an index; undefined: nothing. */
export const wrongIndex = (index: string): string | undefined =>
  /^[0-9]{2}$/.test(index) ? undefined : `invalid plugin index "${index}", must be 2 digits`;

export const wrongName = (name: string): string | undefined =>
  /^[A-Za-z0-9_.+-]+$/.test(name)
    ? undefined
    : `invalid plugin name "${name}": letters, digits and _.+- alone, and one at least`;
