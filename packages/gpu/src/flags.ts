/** Command lines as NVIDIA's programs take them: Go's flags, each of which is also an environment variable. */
import { Command, InvalidArgumentError, Option } from "commander";
import { truth } from "./toolkit/truth.ts";

export const split = (text: string): string[] => text.split(",").map((one) => one.trim());

/** "" is a variable that is set to nothing. */
function yesOrNo(text: string): boolean {
  const value = text === "" ? false : truth(text);
  if (value === undefined) throw new InvalidArgumentError("it is true or false");
  return value;
}

/** One value, or several with commas; given more than once, they add up. */
export const several =
  <T>(one: (text: string) => T) =>
  (text: string, before: readonly T[] = []): T[] => [...before, ...split(text).map(one)];

export const among =
  <T extends string>(known: readonly T[]) =>
  (text: string): T => {
    const found = known.find((name) => name === text);
    if (found === undefined) throw new InvalidArgumentError(`"${text}" is none of ${known.join(", ")}`);
    return found;
  };

const variableOf = (name: string): string => name.toUpperCase().replaceAll("-", "_");

/** Of several variables the first that is set counts. `flags`: as commander takes them. */
export function option(flags: string, about: string, variables: readonly string[]): Option {
  const [first = ""] = variables;
  return new Option(flags, about).env(variables.find((name) => process.env[name] !== undefined) ?? first);
}

export const valued = (name: string, about: string, value = "value", variables = [variableOf(name)]): Option =>
  option(`--${name} <${value}>`, about, variables);

/** --flag, --flag=false. */
export function switched(name: string, about: string, variables = [variableOf(name)]): Option {
  const made = option(`--${name} [bool]`, about, variables).argParser(yesOrNo).preset("true");
  // A name that begins with "no-" is a name like others.
  made.negate = false;
  return made;
}

/** What was given, by the options' names in camel case. `-name` is `--name`, as Go takes it. */
export function parseFlags(name: string, about: string, options: readonly Option[], argv: readonly string[]): Given {
  const command = new Command(name).description(about).allowExcessArguments(false);
  for (const each of options) command.addOption(each);
  command.version("0.1.0", "-v, --version");
  command.parse(
    argv.map((text) => (/^-[a-z][a-z-]/.test(text) ? `-${text}` : text)),
    { from: "user" },
  );
  const given = command.opts();
  return { at: <T>(key: string): T | undefined => given[key] as T | undefined };
}

export interface Given {
  /** undefined: neither the command line nor the environment has it. */
  readonly at: <T>(key: string) => T | undefined;
}

/** Those that are given. */
export function present<T extends object>(all: T): Partial<T> {
  return Object.fromEntries(Object.entries(all).filter(([, value]) => value !== undefined)) as Partial<T>;
}
