/** `config` and `config default`: the toolkit's configuration, shown and changed. */
import { readFileSync, existsSync, mkdirSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { configPath, FIELDS, isKey, type Key, readConfig, ToolkitConfig } from "../toolkit/config.ts";
import { formatConfig } from "../toolkit/format.ts";
import { truth } from "../toolkit/truth.ts";

export interface ConfigFlags {
  readonly configFile?: string | undefined;
  readonly set?: readonly string[];
  readonly setListSeparator: string;
  readonly inPlace?: boolean;
  readonly output?: string;
}

/** Writes it to the file, or with the returned text to nowhere. Throws Error naming the option that is wrong. */
export function changedConfig(flags: ConfigFlags, env: NodeJS.ProcessEnv): string | undefined {
  if (flags.inPlace && flags.output) throw new Error("cannot specify both --in-place and --output");
  if (flags.setListSeparator === "") throw new Error("set-list-separator must be set");
  const file = flags.configFile || configPath(env);
  const isFile = existsSync(file);
  const before = isFile ? readConfig(readFileSync(file, "utf8"), file) : new ToolkitConfig();
  const config = (flags.set ?? []).reduce((now, option) => withOption(now, option, flags.setListSeparator), before);
  return written(formatConfig(config, !isFile), flags.inPlace ? file : flags.output);
}

/** The same without a file. */
export function defaultConfig(output: string | undefined): string | undefined {
  return written(formatConfig(new ToolkitConfig(), true), output);
}

function written(text: string, file: string | undefined): string | undefined {
  if (!file) return text;
  mkdirSync(dirname(file), { recursive: true, mode: 0o755 });
  writeFileSync(file, text, { mode: 0o644 });
  return undefined;
}

/** "key=value", or "key" for a switch to be on. */
function withOption(config: ToolkitConfig, option: string, separator: string): ToolkitConfig {
  const equals = option.indexOf("=");
  const key = equals < 0 ? option : option.slice(0, equals);
  if (!isKey(key)) throw new Error(`invalid --set option ${option}: invalid config option: undefined field: "${key}"`);
  const { initial } = FIELDS[key];
  const isSwitch = typeof initial === "boolean";
  if (equals < 0 && !isSwitch)
    throw new Error(`invalid --set option ${option}: invalid format: expected key=value; got ${option}`);
  const text = equals < 0 ? "true" : option.slice(equals + 1);
  const value = isSwitch ? switchOf(text, option) : Array.isArray(initial) ? list(text, separator) : text;
  // A feature is on, off, or not spoken of.
  const absent = text === "nil" && key.startsWith("features.");
  return config.with<Key>(key, absent ? undefined : value);
}

function switchOf(text: string, option: string): boolean {
  const value = text === "nil" ? false : truth(text);
  if (value === undefined)
    throw new Error(`invalid --set option ${option}: invalid format: "${text}" is neither true nor false`);
  return value;
}

function list(text: string, separator: string): string[] {
  const used = [separator, ","].find((one) => text.includes(one));
  return used === undefined ? [text] : text.split(used);
}
