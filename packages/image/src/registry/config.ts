/**
 * How this node reaches registries, as data that threads pass on: containerd's two ways of saying it (a directory of hosts.toml;
 * the older tables `registry.mirrors`, `registry.configs`), and the proxy. Names are those of containerd's config.toml.
 */
import { ImageError } from "../errors.ts";
import type { ProxySettings } from "./proxy.ts";

export interface RegistriesConfig {
  /** Directories of <host>/hosts.toml; of several separated by colons the first that has one for the host counts. */
  readonly config_path?: string;
  /** By registry, or "*" for every one that has no entry of its own. Not beside `config_path`. */
  readonly mirrors?: Readonly<Record<string, { readonly endpoint?: readonly string[] }>>;
  /** By host and port. `tls` not beside `config_path`. */
  readonly configs?: Readonly<Record<string, RegistryHostConfig>>;
  /** Sent with every request. */
  readonly headers?: Readonly<Record<string, readonly string[]>>;
  /** Default: the environment's HTTP_PROXY, HTTPS_PROXY and NO_PROXY. */
  readonly proxy?: ProxySettings;
}

export interface RegistryHostConfig {
  readonly auth?: {
    readonly username?: string;
    readonly password?: string;
    readonly auth?: string;
    readonly identitytoken?: string;
  };
  readonly tls?: {
    readonly insecure_skip_verify?: boolean;
    readonly ca_file?: string;
    readonly cert_file?: string;
    readonly key_file?: string;
  };
}

const REGISTRY = ["config_path", "mirrors", "configs", "auths", "headers"] as const;
const AUTH = ["username", "password", "auth", "identitytoken"] as const;
const TLS_FILES = ["ca_file", "cert_file", "key_file"] as const;

type Table = Record<string, unknown>;

/**
 * Checks the `registry` table of a config.toml; `where` names it in messages. `auths`, which containerd has long deprecated, goes
 * into `configs` as there. Throws InvalidConfiguration.
 */
export function parseRegistries(value: unknown, where: string): RegistriesConfig {
  const table = tableOf(value, where);
  only(table, REGISTRY, where);
  const path = optionalString(table, "config_path", where) ?? "";
  const mirrors = mapTables(table["mirrors"], `${where}.mirrors`, (entry, at) => {
    only(entry, ["endpoint", "rewrite"], at);
    if (entry["rewrite"] !== undefined)
      throw invalid(`${at}.rewrite is a patch of k3s, not containerd's: not supported`);
    return { endpoint: strings(entry["endpoint"] ?? [], `${at}.endpoint`) };
  });
  const configs = {
    ...authsOf(table["auths"], `${where}.auths`),
    ...mapTables(table["configs"], `${where}.configs`, hostConfig),
  };
  const headers = Object.fromEntries(
    Object.entries(tableOf(table["headers"] ?? {}, `${where}.headers`)).map(([name, list]) => [
      name,
      strings(typeof list === "string" ? [list] : list, `${where}.headers.${name}`),
    ]),
  );
  if (path !== "" && Object.keys(mirrors).length > 0)
    throw invalid(`${where}: mirrors cannot be set when config_path is`);
  if (path !== "" && Object.values(configs).some(({ tls }) => tls !== undefined))
    throw invalid(`${where}: configs.tls cannot be set when config_path is`);
  return { ...(path === "" ? {} : { config_path: path }), mirrors, configs, headers };
}

function hostConfig(entry: Table, at: string): RegistryHostConfig {
  only(entry, ["auth", "tls"], at);
  const { auth, tls } = entry;
  return {
    ...(auth === undefined ? {} : { auth: stringTable(auth, AUTH, `${at}.auth`) }),
    ...(tls === undefined ? {} : { tls: tlsTable(tls, `${at}.tls`) }),
  };
}

function tlsTable(value: unknown, at: string): NonNullable<RegistryHostConfig["tls"]> {
  const { insecure_skip_verify: skip, ...files } = tableOf(value, at);
  if (skip !== undefined && typeof skip !== "boolean")
    throw invalid(`${at}.insecure_skip_verify must be true or false`);
  return { ...stringTable(files, TLS_FILES, at), ...(skip === undefined ? {} : { insecure_skip_verify: skip }) };
}

/** Keys are URLs ("https://gcr.io"). */
function authsOf(value: unknown, at: string): Record<string, RegistryHostConfig> {
  const entries = Object.entries(mapTables(value, at, (entry, path) => stringTable(entry, AUTH, path)));
  return Object.fromEntries(
    entries.map(([key, auth]) => {
      const host = URL.parse(/^https?:\/\//.test(key) ? key : `https://${key}`)?.host;
      if (host === undefined) throw invalid(`${at}."${key}" is not a URL`);
      return [host, { auth }];
    }),
  );
}

function mapTables<T>(value: unknown, at: string, read: (entry: Table, at: string) => T): Record<string, T> {
  return Object.fromEntries(
    Object.entries(tableOf(value ?? {}, at)).map(([key, entry]) => {
      const path = `${at}."${key}"`;
      return [key, read(tableOf(entry, path), path)];
    }),
  );
}

function stringTable<K extends string>(value: unknown, keys: readonly K[], at: string): { [key in K]?: string } {
  const table = tableOf(value, at);
  only(table, keys, at);
  const read = keys.map((key) => [key, optionalString(table, key, at)] as const);
  return Object.fromEntries(read.filter(([, text]) => text !== undefined && text !== "")) as { [key in K]?: string };
}

function optionalString(table: Table, key: string, at: string): string | undefined {
  const value = table[key];
  if (value !== undefined && typeof value !== "string") throw invalid(`${at}.${key} must be a string`);
  return value;
}

function strings(value: unknown, at: string): readonly string[] {
  if (!Array.isArray(value) || !value.every((item) => typeof item === "string"))
    throw invalid(`${at} must be a list of strings`);
  return value;
}

function tableOf(value: unknown, at: string): Table {
  if (typeof value !== "object" || value === null || Array.isArray(value)) throw invalid(`${at} must be a table`);
  return value as Table;
}

function only(table: Table, known: readonly string[], at: string): void {
  for (const key of Object.keys(table))
    if (!known.includes(key)) throw invalid(`${at}: unknown key "${key}" (known: ${known.join(", ")})`);
}

function invalid(message: string): ImageError {
  return new ImageError("InvalidConfiguration", message);
}
