/** Go's filepath.Match, whose patterns `cdi inject` takes: `*` and `?` stop at "/", `[a-z]` and `[^a-z]` are sets, `\` quotes. */

/** Throws Error for a pattern that is malformed. */
export function compileGlob(pattern: string): RegExp {
  let source = "";
  for (let at = 0; at < pattern.length; at++) {
    const character = pattern.charAt(at);
    if (character === "*") source += "[^/]*";
    else if (character === "?") source += "[^/]";
    else if (character === "[") {
      const end = setEnd(pattern, at);
      source += setSource(pattern.slice(at + 1, end), pattern);
      at = end;
    } else if (character === "\\") {
      if (++at >= pattern.length) throw malformed(pattern);
      source += quote(pattern.charAt(at));
    } else source += quote(character);
  }
  return new RegExp(`^${source}$`, "s");
}

function setEnd(pattern: string, from: number): number {
  for (let at = from + 1; at < pattern.length; at++) {
    if (pattern.charAt(at) === "\\") at++;
    else if (pattern.charAt(at) === "]" && at > from + 1) return at;
  }
  throw malformed(pattern);
}

function setSource(content: string, pattern: string): string {
  const negated = content.startsWith("^");
  const parts = [...(negated ? content.slice(1) : content).matchAll(/\\?([^\\])(?:-\\?([^\\]))?/gs)];
  if (parts.length === 0) throw malformed(pattern);
  const ranges = parts.map(([, low = "", high]) => (high === undefined ? quote(low) : `${quote(low)}-${quote(high)}`));
  return `[${negated ? "^" : ""}${ranges.join("")}]`;
}

const quote = (character: string): string => character.replace(/[\\^$.*+?()[\]{}|/-]/, String.raw`\$&`);
const malformed = (pattern: string): Error => new Error(`${JSON.stringify(pattern)}: syntax error in pattern`);
