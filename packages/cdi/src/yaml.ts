/** YAML as the reference's emitter (go.yaml.in/yaml/v3) writes it, so that generated files can be compared line by line. */

/** Spaces of one level. A map in a list's item is aligned with the item's first key instead. */
const INDENT = 4;

/** Ends with a newline. Absent fields are left out. */
export function toYaml(value: unknown): string {
  const lines = block(value, 0);
  return `${lines.join("\n")}\n`;
}

/** The lines of a value that stands at `indent`. */
function block(value: unknown, indent: number): string[] {
  if (Array.isArray(value)) return value.length === 0 ? ["[]"] : value.flatMap((item) => item_(item, indent));
  if (typeof value === "object" && value !== null) return map(value as Readonly<Record<string, unknown>>, indent);
  return scalar(value, indent);
}

function map(value: Readonly<Record<string, unknown>>, indent: number): string[] {
  const entries = Object.entries(value).filter(([, field]) => field !== undefined);
  if (entries.length === 0) return ["{}"];
  return entries.flatMap(([key, field]) => {
    const name = `${" ".repeat(indent)}${scalar(key, 0).join("")}:`;
    if (!isNested(field)) {
      const [first = "", ...more] = scalar(field, nextLevel(indent));
      return [`${name} ${first}`, ...more];
    }
    const lines = block(field, nextLevel(indent));
    return lines.length === 1 && (lines[0] === "{}" || lines[0] === "[]") ? [`${name} ${lines[0]}`] : [name, ...lines];
  });
}

function item_(value: unknown, indent: number): string[] {
  const lines = isNested(value) ? block(value, indent + 2) : scalar(value, nextLevel(indent));
  const [first = "", ...more] = lines;
  return [`${" ".repeat(indent)}- ${first.trimStart()}`, ...more];
}

const nextLevel = (indent: number): number => INDENT * Math.floor((indent + INDENT) / INDENT);
const isNested = (value: unknown): boolean => typeof value === "object" && value !== null;

function scalar(value: unknown, indent: number): string[] {
  if (typeof value !== "string") return [String(value)];
  if (value.includes("\n")) return literal(value, indent);
  if (value === "" || !isPrintable(value) || wouldBeAnother(value)) return [JSON.stringify(value)];
  return [canBePlain(value) ? value : `'${value.replaceAll("'", "''")}'`];
}

function literal(text: string, indent: number): string[] {
  const printable = [...text].every((character) => character === "\n" || isPrintable(character));
  if (!printable || /^\s|[ \t]\n|[ \t]$/.test(text)) return [JSON.stringify(text)];
  const trailing = /\n*$/.exec(text)?.[0].length ?? 0;
  const chomp = trailing === 0 ? "-" : trailing === 1 ? "" : "+";
  const lines = text.slice(0, text.length - Math.min(trailing, 1)).split("\n");
  return [`|${chomp}`, ...lines.map((line) => (line === "" ? "" : " ".repeat(indent) + line))];
}

/** C0 and C1 control characters but tab, the byte order mark and what is no character: only an escape can say them. */
const isPrintable = (text: string): boolean =>
  [...text].every((character) => {
    const code = character.codePointAt(0) ?? 0;
    const control = code < 0x20 ? code !== 0x09 : code >= 0x7f && code <= 0x9f;
    return !control && code !== 0xfeff && code !== 0xfffe && code !== 0xffff;
  });

/** Unquoted it would be read as a number, a boolean, null, a date or a merge, by YAML 1.2 or 1.1. */
function wouldBeAnother(text: string): boolean {
  return (
    /^(?:~|null|Null|NULL|true|True|TRUE|false|False|FALSE|<<)$/.test(text) ||
    /^(?:y|Y|yes|Yes|YES|on|On|ON|n|N|no|No|NO|off|Off|OFF)$/.test(text) ||
    /^[-+]?(?:\.inf|\.Inf|\.INF)$|^(?:\.nan|\.NaN|\.NAN)$/.test(text) ||
    /^[-+]?(?:[0-9][0-9_]*|0x[0-9a-fA-F_]+|0o?[0-7_]+|0b[01_]+)$/.test(text) ||
    /^[-+]?(?:\.[0-9_]+|[0-9][0-9_]*(?:\.[0-9_]*)?)(?:[eE][-+]?[0-9]+)?$/.test(text) ||
    /^[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?$/.test(text) ||
    /^\d{4}-\d{1,2}-\d{1,2}(?:$|[Tt ])/.test(text)
  );
}

function canBePlain(text: string): boolean {
  if (/^[#,[\]{}&*!|>'"%@`]/.test(text) || /^[-?:](?:\s|$)/.test(text) || /^(?:---|\.\.\.)/.test(text)) return false;
  return !/^\s|\s$|:\s|:$|\s#/.test(text);
}
