/** Ids as people see them. */
const SHORT = 12;

/** The first 12 hexadecimal digits; of a digest, those after its algorithm. */
export const shortId = (id: string): string => id.replace(/^[a-z0-9]+:/, "").slice(0, SHORT);
export const shownId = (id: string, full: boolean): string => (full ? id : shortId(id));
