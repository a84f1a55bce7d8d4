/**
 * Flags as runc takes them: Go's flag package (one dash or two, `--flag value` or `--flag=value`, booleans only with "="), and, for
 * most commands, flags behind the arguments too.
 */
import { parseDuration } from "@berth/spec/oci";
import { UsageError } from "./failure.ts";

export interface Flag {
  readonly name: string;
  readonly short?: string;
  readonly kind: "boolean" | "text" | "texts" | "number" | "numbers" | "duration";
  readonly usage: string;
  /** Shown by help; numbers and durations have it as text. */
  readonly default?: string;
  readonly hidden?: boolean;
}

export class Flags {
  readonly #values = new Map<string, string[]>();

  set(name: string, value: string): void {
    const values = this.#values.get(name);
    if (values === undefined) this.#values.set(name, [value]);
    else values.push(value);
  }

  has(name: string): boolean {
    return this.#values.has(name);
  }

  /** The last one given; "" for none. */
  text(name: string): string {
    return this.#values.get(name)?.at(-1) ?? "";
  }

  texts(name: string): readonly string[] {
    return this.#values.get(name) ?? [];
  }

  boolean(name: string): boolean {
    return this.text(name) === "true";
  }

  /** Checked when parsed. */
  number(name: string, otherwise = 0): number {
    return this.has(name) ? Number(this.text(name)) : otherwise;
  }
}

export interface Parsed {
  readonly flags: Flags;
  readonly args: readonly string[];
}

/** `stopAtFirst`: what follows the first argument is arguments, dashes or not. Throws UsageError. */
export function parseFlags(argv: readonly string[], known: readonly Flag[], stopAtFirst: boolean): Parsed {
  const flags = new Flags();
  const args: string[] = [];
  for (let index = 0; index < argv.length; index++) {
    const word = argv[index] ?? "";
    if (word === "--") {
      args.push(...argv.slice(index + 1));
      break;
    }
    if (!word.startsWith("-") || word === "-") {
      if (stopAtFirst) {
        args.push(...argv.slice(index));
        break;
      }
      args.push(word);
      continue;
    }
    const { name, value } = split(word);
    const flag = known.find((one) => one.name === name || one.short === name);
    if (flag === undefined) throw usage(`flag provided but not defined: -${name}`);
    if (flag.kind === "boolean") flags.set(flag.name, String(booleanOf(value ?? "true", name)));
    else {
      const given = value ?? argv[++index];
      if (given === undefined) throw usage(`flag needs an argument: ${word}`);
      flags.set(flag.name, checked(flag, given, name));
    }
  }
  return { flags, args };
}

function usage(message: string): UsageError {
  return new UsageError(message, message);
}

function split(word: string): { name: string; value: string | undefined } {
  const bare = word.replace(/^--?/, "");
  const at = bare.indexOf("=");
  return at < 0 ? { name: bare, value: undefined } : { name: bare.slice(0, at), value: bare.slice(at + 1) };
}

const BOOLEANS: Readonly<Record<string, boolean>> = {
  ...Object.fromEntries(["1", "t", "T", "true", "TRUE", "True"].map((text) => [text, true])),
  ...Object.fromEntries(["0", "f", "F", "false", "FALSE", "False"].map((text) => [text, false])),
};

function booleanOf(text: string, name: string): boolean {
  const value = BOOLEANS[text];
  if (value === undefined) throw invalid(text, name, "parse error");
  return value;
}

function checked({ kind }: Flag, text: string, name: string): string {
  if ((kind === "number" || kind === "numbers") && !/^[+-]?\d+$/.test(text))
    throw invalid(text, name, `strconv.ParseInt: parsing ${JSON.stringify(text)}: invalid syntax`);
  if (kind === "duration" && parseDuration(text) === undefined)
    throw invalid(text, name, `time: invalid duration ${JSON.stringify(text)}`);
  return text;
}

function invalid(text: string, name: string, reason: string): UsageError {
  return usage(`invalid value ${JSON.stringify(text)} for flag -${name}: ${reason}`);
}
