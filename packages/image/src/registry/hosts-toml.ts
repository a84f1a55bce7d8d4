/**
 * containerd's certs.d: a directory for each registry with a hosts.toml (containerd's docs/hosts.md), or with certificates
 * only, as Docker has them. What is decided here is decided as containerd's core/remotes/docker/config does.
 */
import { readdir, readFile, stat } from "node:fs/promises";
import { join, resolve as resolvePath } from "node:path";
import { parseDuration } from "@berth/spec/oci";
import { ImageError } from "../errors.ts";
import { ALL, type Capability, defaultHost, type RegistryHost, standsIn } from "./host.ts";
import type { TlsOptions } from "./http.ts";
import { parseProxy } from "./proxy.ts";

const HOST_KEYS = ["capabilities", "ca", "client", "skip_verify", "header", "override_path", "dial_timeout", "proxy"];
const ROOT_KEYS = ["server", "host", ...HOST_KEYS];

type Table = Record<string, unknown>;

/** Undefined: no directory is for `domain`. Throws InvalidConfiguration. */
export async function readHostsDirectory(
  roots: readonly string[],
  domain: string,
): Promise<RegistryHost[] | undefined> {
  for (const root of roots) {
    for (const name of directoryNames(domain)) {
      const directory = join(root, name);
      if (!(await isThere(directory))) continue;
      const path = join(directory, "hosts.toml");
      const text = await readFile(path, "utf8").catch((error: unknown) => {
        if ((error as { code?: string }).code === "ENOENT") return "";
        throw unreadable(path, path, error);
      });
      return text === ""
        ? [defaultHost(domain, await certificatesIn(directory))]
        : await parseHosts(text, path, directory, domain);
    }
  }
  return undefined;
}

/** containerd's order: the port may be written between underscores, where a colon cannot be in a name. */
function directoryNames(domain: string): string[] {
  const port = /^(.*):(\d+)$/.exec(domain);
  return [...(port === null ? [] : [`${port[1]}_${port[2]}_`]), domain, "_default"];
}

async function isThere(path: string): Promise<boolean> {
  try {
    return (await stat(path)).isDirectory();
  } catch (error) {
    const { code } = error as { code?: string };
    if (code === "ENOENT" || code === "ENOTDIR") return false;
    throw unreadable(path, path, error);
  }
}

/** Docker's names: *.crt are authorities, *.cert with *.key client certificates. */
async function certificatesIn(directory: string): Promise<TlsOptions> {
  const names = (await readdir(directory)).sort();
  const read = async (name: string): Promise<string> => await readBeside(name, directory, directory);
  const ca = await Promise.all(names.filter((name) => name.endsWith(".crt")).map(read));
  const certificates = names.filter((name) => name.endsWith(".cert"));
  const clients = await Promise.all(
    certificates.map(async (name) => {
      const key = `${name.slice(0, -".cert".length)}.key`;
      return { cert: await read(name), key: await read(names.includes(key) ? key : name) };
    }),
  );
  return { ...(ca.length === 0 ? {} : { ca }), ...(clients.length === 0 ? {} : { clients }) };
}

async function parseHosts(text: string, path: string, directory: string, domain: string): Promise<RegistryHost[]> {
  const { parse } = await import("smol-toml");
  let root: Table;
  try {
    root = parse(text);
  } catch (error) {
    throw new ImageError("InvalidConfiguration", `${path}: ${(error as Error).message.split("\n")[0]}`, {
      cause: error,
    });
  }
  checkKeys(root, ROOT_KEYS, path);
  const { server, host } = root;
  if (server !== undefined && typeof server !== "string") throw wrong(path, "server", "a URL in quotes");
  if (host !== undefined && !isTable(host)) throw wrong(path, "host", 'tables of the form [host."https://mirror"]');
  const hosts: RegistryHost[] = [];
  for (const [url, table] of Object.entries(host ?? {})) {
    if (!isTable(table)) throw wrong(path, `host."${url}"`, "a table");
    checkKeys(table, HOST_KEYS, path);
    hosts.push(await readHost(url, table, path, directory, domain));
  }
  if (server !== undefined && server !== "") hosts.push(await readHost(server, root, path, directory, domain));
  else hosts.push(await upstream(root, path, directory, domain));
  return hosts;
}

/** The registry itself, where no `server` says otherwise: its path and capabilities are what they always are. */
async function upstream(root: Table, path: string, directory: string, domain: string): Promise<RegistryHost> {
  capabilitiesOf(root["capabilities"], path);
  return { ...defaultHost(domain, await tlsOf(root, path, directory)), ...connectionOf(root, path) };
}

async function readHost(
  server: string,
  table: Table,
  path: string,
  directory: string,
  domain: string,
): Promise<RegistryHost> {
  const url = URL.parse(/^https?:\/\//.test(server) ? server : `https://${server}`);
  if (url === null || url.hostname === "") throw wrong(path, `"${server}"`, "a host or an http(s) URL");
  const tls = await tlsOf(table, path, directory);
  const below = basePath(url.pathname, booleanOf(table, "override_path", path) === true);
  return {
    ...schemesFor(url, below, tls),
    capabilities: capabilitiesOf(table["capabilities"], path),
    ...connectionOf(table, path),
    mirror: standsIn(url, domain),
  };
}

function connectionOf(table: Table, path: string): Pick<RegistryHost, "headers" | "dialTimeoutMs" | "proxy"> {
  const dial = dialTimeout(table["dial_timeout"], path);
  const proxy = proxyOf(table["proxy"], path);
  return {
    headers: headersOf(table["header"], path),
    ...(dial === undefined ? {} : { dialTimeoutMs: dial }),
    ...(proxy === undefined ? {} : { proxy }),
  };
}

function proxyOf(value: unknown, path: string): string | undefined {
  if (value === undefined || value === "") return undefined;
  if (typeof value !== "string" || !value.includes("://"))
    throw wrong(path, "proxy", 'a URL such as "http://proxy:3128"');
  const url = parseProxy(value, `${path}: proxy`);
  if (url.search !== "" || url.hash !== "" || url.pathname.length > 1)
    throw wrong(path, "proxy", "a URL without a path, query or fragment");
  return value;
}

/**
 * "http://" with TLS settings contradicts itself: as in containerd both are tried. TLS comes first where certificates are
 * named; a skip_verify alone, often left in files of plain registries, does not make every pull begin with a failure.
 */
function schemesFor(url: URL, below: string, tls: TlsOptions): Pick<RegistryHost, "base" | "tls" | "other"> {
  const named = { base: `${url.origin}${below}`, tls };
  if (url.protocol === "https:" || Object.keys(tls).length === 0 || url.port === "") return named;
  const secure = { base: `https://${url.host}${below}`, tls };
  return tls.ca === undefined && tls.clients === undefined ? { ...named, other: secure } : { ...secure, other: named };
}

function basePath(pathname: string, override: boolean): string {
  const trimmed = pathname.replace(/\/+$/, "");
  return override || trimmed.endsWith("/v2") ? trimmed : `${trimmed}/v2`;
}

function checkKeys(table: Table, known: readonly string[], path: string): void {
  for (const key of Object.keys(table))
    if (!known.includes(key))
      throw new ImageError("InvalidConfiguration", `${path}: unknown key "${key}" (known: ${known.join(", ")})`);
}

/** None named is all, as is an empty list. */
function capabilitiesOf(value: unknown, path: string): readonly Capability[] {
  if (value === undefined) return ALL;
  const names = Array.isArray(value) ? value.map((item) => (typeof item === "string" ? item.toLowerCase() : item)) : [];
  if (!Array.isArray(value) || !names.every((name) => (ALL as readonly unknown[]).includes(name)))
    throw wrong(path, "capabilities", `a list of ${ALL.map((item) => `"${item}"`).join(", ")}`);
  return names.length === 0 ? ALL : (names as Capability[]);
}

function headersOf(value: unknown, path: string): Readonly<Record<string, readonly string[]>> {
  if (value === undefined) return {};
  if (!isTable(value)) throw wrong(path, "header", "a table of strings");
  const headers: Record<string, readonly string[]> = {};
  for (const [name, content] of Object.entries(value)) {
    const list = typeof content === "string" ? [content] : content;
    if (!Array.isArray(list) || !list.every((item) => typeof item === "string"))
      throw wrong(path, `header.${name}`, "a string or a list of strings");
    headers[name.toLowerCase()] = list;
  }
  return headers;
}

async function tlsOf(table: Table, path: string, directory: string): Promise<TlsOptions> {
  const read = async (name: string): Promise<string> => await readBeside(name, directory, path);
  const ca = table["ca"];
  const files = ca === undefined ? [] : typeof ca === "string" ? [ca] : ca;
  if (!Array.isArray(files) || !files.every((file) => typeof file === "string"))
    throw wrong(path, "ca", "a path or a list of paths");
  const clients = await Promise.all(
    clientPairs(table["client"], path).map(async ([cert, key]) => ({
      cert: await read(cert),
      key: await read(key === "" ? cert : key),
    })),
  );
  const skip = booleanOf(table, "skip_verify", path);
  return {
    ...(files.length === 0 ? {} : { ca: await Promise.all(files.map(read)) }),
    ...(clients.length === 0 ? {} : { clients }),
    ...(skip === undefined ? {} : { skipVerify: skip }),
  };
}

/** One file with both, a list of such files, or of pairs [certificate, key]. */
function clientPairs(value: unknown, path: string): (readonly [string, string])[] {
  if (value === undefined) return [];
  return (typeof value === "string" ? [value] : Array.isArray(value) ? value : [undefined]).map((pair: unknown) => {
    if (typeof pair === "string") return [pair, ""];
    if (Array.isArray(pair) && pair.length === 2 && pair.every((file) => typeof file === "string"))
      return [pair[0] as string, pair[1] as string];
    throw wrong(path, "client", 'a path, or pairs as in [["cert.pem", "key.pem"]]');
  });
}

async function readBeside(name: string, directory: string, path: string): Promise<string> {
  const file = resolvePath(directory, name);
  try {
    return await readFile(file, "utf8");
  } catch (error) {
    throw unreadable(path, file, error);
  }
}

function booleanOf(table: Table, key: string, path: string): boolean | undefined {
  const value = table[key];
  if (value !== undefined && typeof value !== "boolean") throw wrong(path, key, "true or false");
  return value;
}

/** A duration as Go writes them: "300ms", "1.5s", "1m30s". */
function dialTimeout(value: unknown, path: string): number | undefined {
  if (value === undefined || value === "") return undefined;
  const ms = typeof value === "string" ? parseDuration(value) : undefined;
  if (ms === undefined || ms < 0) throw wrong(path, "dial_timeout", 'a duration such as "10s"');
  // None at all, as in Go.
  return ms === 0 ? undefined : ms;
}

function isTable(value: unknown): value is Table {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function wrong(path: string, field: string, wanted: string): ImageError {
  return new ImageError("InvalidConfiguration", `${path}: ${field} must be ${wanted}`);
}

function unreadable(path: string, file: string, error: unknown): ImageError {
  return new ImageError("InvalidConfiguration", `${path}: cannot read ${file}: ${(error as Error).message}`, {
    cause: error,
  });
}
