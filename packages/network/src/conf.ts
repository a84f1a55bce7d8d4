/** CNI network configurations: one file's text to a checked list of plugins (CNI spec 1.1, section 1). Pure: no I/O. */
import { isIdentifier } from "./names.ts";

/** The spec versions whose results and commands are understood here, oldest first. */
export const CNI_VERSIONS = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"] as const;
export type CniVersion = (typeof CNI_VERSIONS)[number];

export type Json = { readonly [key: string]: unknown };

export interface PluginConf {
  /** The executable's name in the binary directories. */
  readonly type: string;
  readonly capabilities: ReadonlySet<string>;
  /** The plugin's object as written; `name`, `cniVersion`, `prevResult` and `runtimeConfig` are added at the call. */
  readonly raw: Json;
}

export interface NetworkConf {
  readonly file: string;
  readonly name: string;
  readonly cniVersion: CniVersion;
  readonly disableCheck: boolean;
  readonly disableGc: boolean;
  readonly plugins: readonly PluginConf[];
}

/** A configuration that cannot be used: `message` is "FILE: FIELD: what is wrong". */
export class ConfError extends Error {
  override readonly name = "ConfError";
  readonly file: string;
  /** As in "plugins[1].type"; "" where the file as a whole is meant. */
  readonly field: string;

  constructor(file: string, field: string, problem: string, options?: ErrorOptions) {
    super([file, field, problem].filter((part) => part !== "").join(": "), options);
    this.file = file;
    this.field = field;
  }
}

export function isAtLeast(version: CniVersion, minimum: CniVersion): boolean {
  return CNI_VERSIONS.indexOf(version) >= CNI_VERSIONS.indexOf(minimum);
}

/** Reads a `*.conflist` (an object with `plugins`) or a `*.conf`/`*.json` (one plugin's object). Throws ConfError. */
export function parseConf(file: string, text: string): NetworkConf {
  const conf = parseJson(file, text);
  return file.endsWith(".conflist") ? parseList(file, conf) : parseSingle(file, conf);
}

/**
 * Whether a list also takes the plugins of the folder named after it beside it: so it is, since 1.1, unless
 * `loadOnlyInlinedPlugins` is set.
 */
export function wantsFolder(file: string, text: string): string | undefined {
  if (!file.endsWith(".conflist")) return undefined;
  const conf = parseJson(file, text);
  if (optionalBoolean(file, conf, "loadOnlyInlinedPlugins")) return undefined;
  return requireName(file, conf);
}

/** A plugin of such a folder. */
export function parsePluginFile(file: string, text: string): PluginConf {
  return parsePlugin(file, "", parseJson(file, text));
}

/** As parseConf for a list whose plugins may be inline, in its folder, or both. */
export function parseConfWithFolder(file: string, text: string, extra: readonly PluginConf[]): NetworkConf {
  return parseList(file, parseJson(file, text), extra);
}

/** The list as JSON that parseConf reads back to the same: what the cache of attachments keeps. */
export function formatConf(conf: NetworkConf): Json {
  return {
    cniVersion: conf.cniVersion,
    name: conf.name,
    ...(conf.disableCheck ? { disableCheck: true } : {}),
    ...(conf.disableGc ? { disableGC: true } : {}),
    loadOnlyInlinedPlugins: true,
    plugins: conf.plugins.map((plugin) => plugin.raw),
  };
}

function parseJson(file: string, text: string): Json {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new ConfError(file, "", `not valid JSON: ${(error as Error).message}`, { cause: error });
  }
  if (!isObject(value)) throw new ConfError(file, "", "must be a JSON object");
  return value;
}

function parseList(file: string, conf: Json, extra: readonly PluginConf[] = []): NetworkConf {
  const inline = conf["plugins"];
  if (inline === undefined && extra.length === 0) {
    const hint = typeof conf["type"] === "string" ? `; a single plugin's configuration is a file named *.conf` : "";
    throw new ConfError(file, "plugins", `missing: a *.conflist lists its plugins here${hint}`);
  }
  if (inline !== undefined && (!Array.isArray(inline) || inline.length === 0)) {
    throw new ConfError(file, "plugins", "must be a list of at least one plugin");
  }
  const plugins = ((inline ?? []) as unknown[]).map((plugin, index) => parsePlugin(file, `plugins[${index}]`, plugin));
  return {
    file,
    name: requireName(file, conf),
    cniVersion: chooseVersion(file, conf),
    disableCheck: optionalBoolean(file, conf, "disableCheck"),
    disableGc: optionalBoolean(file, conf, "disableGC"),
    plugins: [...plugins, ...extra],
  };
}

function parseSingle(file: string, conf: Json): NetworkConf {
  if (conf["plugins"] !== undefined) {
    throw new ConfError(file, "plugins", "a list of plugins belongs in a file named *.conflist: rename this one");
  }
  const { name: _name, cniVersion: _version, ...raw } = conf;
  return {
    file,
    name: requireName(file, conf),
    cniVersion: chooseVersion(file, conf),
    disableCheck: false,
    disableGc: false,
    plugins: [{ ...parsePlugin(file, "", conf), raw }],
  };
}

function parsePlugin(file: string, at: string, value: unknown): PluginConf {
  const field = (name: string) => (at === "" ? name : `${at}.${name}`);
  if (!isObject(value)) throw new ConfError(file, at, "must be an object");
  const type = value["type"];
  if (typeof type !== "string" || type === "")
    throw new ConfError(file, field("type"), "must name the plugin's executable");
  if (type.includes("/") || type === "." || type === "..") {
    throw new ConfError(
      file,
      field("type"),
      `${JSON.stringify(type)} must be a plain file name: plugins are looked for in the binary directories only`,
    );
  }
  const ipam = value["ipam"];
  if (ipam !== undefined) {
    if (!isObject(ipam)) throw new ConfError(file, field("ipam"), "must be an object");
    const ipamType = ipam["type"];
    if (ipamType !== undefined && (typeof ipamType !== "string" || ipamType.includes("/"))) {
      throw new ConfError(file, field("ipam.type"), "must be a plain file name");
    }
  }
  return { type, capabilities: parseCapabilities(file, field("capabilities"), value["capabilities"]), raw: value };
}

function parseCapabilities(file: string, field: string, value: unknown): ReadonlySet<string> {
  const declared = new Set<string>();
  if (value === undefined) return declared;
  if (!isObject(value)) throw new ConfError(file, field, "must be an object of booleans");
  for (const [name, supported] of Object.entries(value)) {
    if (typeof supported !== "boolean") throw new ConfError(file, `${field}.${name}`, "must be true or false");
    if (supported) declared.add(name);
  }
  return declared;
}

function requireName(file: string, conf: Json): string {
  const name = conf["name"];
  if (typeof name !== "string" || name === "") throw new ConfError(file, "name", "must name the network");
  if (!isIdentifier(name)) {
    throw new ConfError(
      file,
      "name",
      `${JSON.stringify(name)} must start with a letter or digit and hold only letters, digits, "_", "." and "-"`,
    );
  }
  return name;
}

/** The highest of `cniVersion` and `cniVersions` that is known here; neither: 0.1.0, as in the spec's first edition. */
function chooseVersion(file: string, conf: Json): CniVersion {
  const offered: string[] = [];
  const single = conf["cniVersion"];
  if (single !== undefined) offered.push(requireVersion(file, "cniVersion", single));
  const many = conf["cniVersions"];
  if (many !== undefined) {
    if (!Array.isArray(many)) throw new ConfError(file, "cniVersions", "must be a list of versions");
    many.forEach((version: unknown, index) => offered.push(requireVersion(file, `cniVersions[${index}]`, version)));
  }
  if (offered.length === 0) return "0.1.0";
  const known = CNI_VERSIONS.findLast((version) => offered.includes(version));
  if (known === undefined) {
    const field = single === undefined ? "cniVersions" : "cniVersion";
    throw new ConfError(
      file,
      field,
      `${offered.join(", ")} is not supported; supported are ${CNI_VERSIONS.join(", ")}`,
    );
  }
  return known;
}

function requireVersion(file: string, field: string, value: unknown): string {
  if (typeof value !== "string" || !/^\d+\.\d+\.\d+$/.test(value))
    throw new ConfError(file, field, `must be a version such as "1.0.0"`);
  return value;
}

/** The spec allows the words "true" and "false" as strings, in any case. */
function optionalBoolean(file: string, conf: Json, field: string): boolean {
  const value = conf[field];
  if (value === undefined) return false;
  if (typeof value === "boolean") return value;
  const word = typeof value === "string" ? value.toLowerCase() : "";
  if (word !== "true" && word !== "false") throw new ConfError(file, field, "must be true or false");
  return word === "true";
}

export function isObject(value: unknown): value is Json {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
