/** Command lines as crictl's library reads them: Go's `flag` rules, one or two dashes alike, and nothing after the first argument. */
import { UsageError } from "./errors.ts";
import { parseDuration } from "@berth/spec/oci";

export type FlagType = "bool" | "string" | "int" | "slice" | "duration";

export interface Flag {
  readonly name: string;
  readonly type: FlagType;
  readonly usage: string;
  readonly aliases?: readonly string[];
  readonly value?: string | number;
  readonly env?: string;
}

type More = Pick<Flag, "aliases" | "value" | "env">;
const of =
  (type: FlagType) =>
  (name: string, usage: string, more: More = {}): Flag => ({ name, type, usage, ...more });
export const bool = of("bool");
export const string = of("string");
export const int = of("int");
export const slice = of("slice");
export const duration = of("duration");

type Value = boolean | string | number | readonly string[];

export class Parsed {
  readonly args: readonly string[];
  readonly #values: ReadonlyMap<string, Value>;
  readonly #flags: readonly Flag[];

  constructor(flags: readonly Flag[], values: ReadonlyMap<string, Value>, args: readonly string[]) {
    this.#flags = flags;
    this.#values = values;
    this.args = args;
  }

  isSet(name: string): boolean {
    return this.#values.has(name);
  }
  get count(): number {
    return this.#values.size;
  }
  bool(name: string): boolean {
    return this.#values.get(name) === true;
  }
  string(name: string): string {
    return String(this.#values.get(name) ?? this.#default(name) ?? "");
  }
  /** Whole numbers; durations in milliseconds. */
  number(name: string): number {
    return Number(this.#values.get(name) ?? this.#default(name) ?? 0);
  }
  slice(name: string): readonly string[] {
    return (this.#values.get(name) as readonly string[] | undefined) ?? [];
  }

  #default(name: string): string | number | undefined {
    return this.#flags.find((flag) => flag.name === name)?.value;
  }
}

export interface ParseOptions {
  /** Whether "-it" is "-i -t". */
  readonly shortOptions: boolean;
  readonly env: Readonly<Record<string, string | undefined>>;
}

/** Throws UsageError. */
export function parse(flags: readonly Flag[], argv: readonly string[], { shortOptions, env }: ParseOptions): Parsed {
  const byName = new Map(flags.flatMap((flag) => [flag.name, ...(flag.aliases ?? [])].map((name) => [name, flag])));
  const values = new Map<string, Value>();
  for (const flag of flags) {
    const given = flag.env === undefined ? undefined : env[flag.env];
    if (given) set(values, flag, given, flag.name);
  }
  const rest = [...argv];
  for (;;) {
    const word = rest[0];
    if (word === undefined || !word.startsWith("-") || word === "-") break;
    rest.shift();
    if (word === "--") break;
    const [, name = "", , text] = /^--?([^=]*)(=(.*))?$/s.exec(word) ?? [];
    const flag = byName.get(name);
    if (flag) take(values, flag, name, text, rest);
    else if (shortOptions && splits(word, byName)) rest.unshift(...[...name].map((letter) => `-${letter}`));
    else throw new UsageError(`flag provided but not defined: -${name}`);
  }
  return new Parsed(flags, values, rest);
}

const splits = (word: string, byName: ReadonlyMap<string, Flag>): boolean =>
  /^-[^-]{2,}$/.test(word) && Array.from(word.slice(1)).every((letter) => byName.has(letter));

function take(values: Map<string, Value>, flag: Flag, name: string, text: string | undefined, rest: string[]): void {
  if (flag.type === "bool") return set(values, flag, text ?? "true", name);
  const value = text ?? rest.shift();
  if (value === undefined) throw new UsageError(`flag needs an argument: -${name}`);
  set(values, flag, value, name);
}

const BOOLS: Readonly<Record<string, boolean>> = {
  ...Object.fromEntries(["1", "t", "T", "TRUE", "true", "True"].map((word) => [word, true])),
  ...Object.fromEntries(["0", "f", "F", "FALSE", "false", "False"].map((word) => [word, false])),
};

function set(values: Map<string, Value>, flag: Flag, text: string, name: string): void {
  const previous = values.get(flag.name);
  switch (flag.type) {
    case "bool":
      if (BOOLS[text] === undefined) throw new UsageError(`invalid boolean value "${text}" for -${name}: parse error`);
      return void values.set(flag.name, BOOLS[text]);
    case "string":
      return void values.set(flag.name, text);
    case "slice":
      return void values.set(flag.name, [...((previous as readonly string[] | undefined) ?? []), ...text.split(",")]);
    case "int":
      if (!/^[+-]?\d+$/.test(text)) throw new UsageError(`invalid value "${text}" for flag -${name}: parse error`);
      return void values.set(flag.name, Number(text));
    case "duration": {
      const ms = parseDuration(text);
      if (ms === undefined) throw new UsageError(`invalid value "${text}" for flag -${name}: parse error`);
      return void values.set(flag.name, ms);
    }
  }
}
