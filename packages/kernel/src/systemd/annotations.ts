/** `org.systemd.property.NAME` annotations: properties of the unit, with values as GVariant's text has them. */
import { DBusError, type DBusValue, type Variant } from "./marshal.ts";
import type { UnitProperty } from "./manager.ts";

const PREFIX = "org.systemd.property.";
const MICROSECONDS = 1_000_000n;
/** GVariant's type keywords. */
const TYPES: Readonly<Record<string, string>> = {
  boolean: "b",
  byte: "y",
  int16: "n",
  uint16: "q",
  int32: "i",
  uint32: "u",
  handle: "h",
  int64: "x",
  uint64: "t",
  double: "d",
  string: "s",
  objectpath: "o",
  signature: "g",
};

/** Throws DBusError naming the annotation. A property in seconds ("TimeoutStopSec") is given in microseconds, as systemd has it. */
export function annotatedProperties(annotations: Readonly<Record<string, string>> = {}): UnitProperty[] {
  return Object.entries(annotations).flatMap(([key, value]): UnitProperty[] => {
    if (!key.startsWith(PREFIX)) return [];
    const name = key.slice(PREFIX.length);
    if (!/^[A-Za-z]{3,}$/.test(name)) throw new DBusError(`annotation ${key}: ${JSON.stringify(name)} is no property`);
    const variant = parse(value, key);
    return [name.endsWith("Sec") && !name.endsWith("USec") ? inMicroseconds(name, variant, key) : [name, variant]];
  });
}

function inMicroseconds(name: string, { signature, value }: Variant, key: string): UnitProperty {
  if (typeof value !== "number" && typeof value !== "bigint")
    throw new DBusError(`annotation ${key}: the value is not a number of seconds`);
  const micro =
    signature === "d" ? BigInt(Math.round(Number(value) * Number(MICROSECONDS))) : BigInt(value) * MICROSECONDS;
  return [`${name.slice(0, -"Sec".length)}USec`, { signature: "t", value: micro }];
}

/** true, 'text', 5, uint64 5, @t 5, and lists of one kind. */
function parse(text: string, key: string): Variant {
  const wrong = () =>
    new DBusError(`annotation ${key}: ${JSON.stringify(text)} is not a value, as in 'text', true or uint64 5`);
  const source = text.trim();
  const list = /^(?:@a(\w)\s+)?\[(.*)\]$/s.exec(source);
  if (list !== null) {
    const items = [...(list[2] ?? "").matchAll(/\s*('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[^,]+)\s*(?:,|$)/gs)].map(
      (match) => scalar((match[1] ?? "").trim(), wrong),
    );
    const type = list[1] ?? items[0]?.signature ?? "s";
    return { signature: `a${type}`, value: items.map(({ value }) => value) };
  }
  return scalar(source, wrong);
}

function scalar(text: string, wrong: () => Error): Variant {
  const typed = /^(?:@([a-z])|([a-z]\w+))\s+(.+)$/s.exec(text);
  const type = typed?.[1] ?? (typed?.[2] === undefined ? undefined : TYPES[typed[2]]);
  if (typed !== null && type === undefined) throw wrong();
  const literal = typed?.[3] ?? text;
  if (literal === "true" || literal === "false") return { signature: "b", value: literal === "true" };
  const quoted = /^(?:'((?:[^'\\]|\\.)*)'|"((?:[^"\\]|\\.)*)")$/s.exec(literal);
  if (quoted !== null)
    return { signature: type ?? "s", value: (quoted[1] ?? quoted[2] ?? "").replaceAll(/\\(.)/gs, "$1") };
  if (/^[-+]?\d+$/.test(literal)) return { signature: type ?? "i", value: number(literal, type ?? "i") };
  if (/^[-+]?\d*\.\d+(?:e[-+]?\d+)?$/i.test(literal)) return { signature: type ?? "d", value: Number(literal) };
  throw wrong();
}

function number(literal: string, type: string): DBusValue {
  return type === "x" || type === "t" ? BigInt(literal) : Number(literal);
}
