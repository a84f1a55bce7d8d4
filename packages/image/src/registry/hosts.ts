/**
 * Where a registry's content comes from: containerd's certs.d/<host>/hosts.toml (containerd's docs/hosts.md), and what
 * holds without one.
 */
import { readFile } from "node:fs/promises";
import { join, resolve as resolvePath } from "node:path";
import { ImageError } from "../errors.ts";
import { isLoopback, type TlsOptions } from "./http.ts";

export type Capability = "pull" | "resolve" | "push";

export interface RegistryHost {
  /** "https://registry-1.docker.io/v2", without a slash at the end. */
  readonly base: string;
  readonly capabilities: readonly Capability[];
  readonly headers: Readonly<Record<string, readonly string[]>>;
  readonly tls: TlsOptions;
  readonly dialTimeoutMs?: number;
  /** Not the registry itself: gets "?ns=<domain>", so that one mirror can stand in for several. */
  readonly mirror: boolean;
}

const ALL: readonly Capability[] = ["pull", "resolve", "push"];
const KEYS = new Set([
  "server",
  "host",
  "capabilities",
  "ca",
  "client",
  "skip_verify",
  "header",
  "override_path",
  "dial_timeout",
]);

/** The hosts to ask for `domain`, in order; the registry itself comes last. Throws InvalidConfiguration. */
export async function hostsFor(domain: string, hostsDir: string | undefined): Promise<RegistryHost[]> {
  const found = hostsDir === undefined ? undefined : await readHostsFile(hostsDir, domain);
  return found ?? [defaultHost(domain)];
}

function defaultHost(domain: string): RegistryHost {
  return { base: `${defaultServer(domain)}/v2`, capabilities: ALL, headers: {}, tls: {}, mirror: false };
}

function defaultServer(domain: string): string {
  if (domain === "docker.io") return "https://registry-1.docker.io";
  const url = new URL(`http://${domain}`);
  return `${isLoopback(url.hostname) && url.port !== "443" ? "http" : "https"}://${domain}`;
}

async function readHostsFile(hostsDir: string, domain: string): Promise<RegistryHost[] | undefined> {
  for (const name of directoryNames(domain)) {
    const directory = join(hostsDir, name);
    const path = join(directory, "hosts.toml");
    let text: string;
    try {
      text = await readFile(path, "utf8");
    } catch (error) {
      const { code } = error as { code?: string };
      if (code === "ENOENT" || code === "ENOTDIR") continue;
      throw new ImageError("InvalidConfiguration", `${path}: ${(error as Error).message}`, { cause: error });
    }
    return await parseHosts(text, path, directory, domain);
  }
  return undefined;
}

/** containerd's order: the port may be written between underscores, where a colon cannot be in a name. */
function directoryNames(domain: string): string[] {
  const port = /^(.*):(\d+)$/.exec(domain);
  return [...(port === null ? [] : [`${port[1]}_${port[2]}_`]), domain, "_default"];
}

type Table = Record<string, unknown>;

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
  checkKeys(root, path);
  const { server, host } = root;
  if (server !== undefined && typeof server !== "string") throw wrong(path, "server", "a URL in quotes");
  if (host !== undefined && !isTable(host)) throw wrong(path, "host", 'tables of the form [host."https://mirror"]');
  const hosts: RegistryHost[] = [];
  for (const [url, table] of Object.entries(host ?? {})) {
    if (!isTable(table)) throw wrong(path, `host."${url}"`, "a table");
    checkKeys(table, path);
    hosts.push(await readHost(url, table, path, directory, true, defaultServer(domain)));
  }
  hosts.push(
    await readHost(
      server === undefined || server === "" ? defaultServer(domain) : server,
      root,
      path,
      directory,
      false,
      defaultServer(domain),
    ),
  );
  return hosts;
}

async function readHost(
  server: string,
  table: Table,
  path: string,
  directory: string,
  mirror: boolean,
  upstream: string,
): Promise<RegistryHost> {
  const url = URL.parse(/^https?:\/\//.test(server) ? server : `https://${server}`);
  if (url === null || url.hostname === "") throw wrong(path, `"${server}"`, "a host or an http(s) URL");
  const dial = dialTimeout(table["dial_timeout"], path);
  return {
    base: `${url.origin}${basePath(url.pathname, booleanOf(table, "override_path", path))}`,
    capabilities: capabilitiesOf(table["capabilities"], path),
    headers: headersOf(table["header"], path),
    tls: await tlsOf(table, path, directory),
    ...(dial === undefined ? {} : { dialTimeoutMs: dial }),
    mirror: mirror && url.origin !== upstream,
  };
}

function basePath(pathname: string, override: boolean): string {
  const trimmed = pathname.replace(/\/+$/, "");
  return override || trimmed.endsWith("/v2") ? trimmed : `${trimmed}/v2`;
}

function checkKeys(table: Table, path: string): void {
  for (const key of Object.keys(table))
    if (!KEYS.has(key))
      throw new ImageError("InvalidConfiguration", `${path}: unknown key "${key}" (known: ${[...KEYS].join(", ")})`);
}

function capabilitiesOf(value: unknown, path: string): readonly Capability[] {
  if (value === undefined) return ALL;
  if (!Array.isArray(value) || !value.every((item) => (ALL as readonly unknown[]).includes(item)))
    throw wrong(path, "capabilities", `a list of ${ALL.map((item) => `"${item}"`).join(", ")}`);
  return value as Capability[];
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
  const read = async (name: string): Promise<string> => {
    const file = resolvePath(directory, name);
    try {
      return await readFile(file, "utf8");
    } catch (error) {
      throw new ImageError("InvalidConfiguration", `${path}: cannot read ${file}: ${(error as Error).message}`, {
        cause: error,
      });
    }
  };
  const ca = table["ca"];
  const files = ca === undefined ? [] : typeof ca === "string" ? [ca] : ca;
  if (!Array.isArray(files) || !files.every((file) => typeof file === "string"))
    throw wrong(path, "ca", "a path or a list of paths");
  const pair = clientPair(table["client"], path);
  const cert = pair === undefined ? undefined : await read(pair[0]);
  const key = pair === undefined ? undefined : await read(pair[1] === "" ? pair[0] : pair[1]);
  return {
    ...(files.length === 0 ? {} : { ca: await Promise.all(files.map((file) => read(file))) }),
    ...(cert === undefined || key === undefined ? {} : { cert, key }),
    ...(booleanOf(table, "skip_verify", path) ? { skipVerify: true } : {}),
  };
}

/** One file with both, or a pair [certificate, key]; of several pairs the first. */
function clientPair(value: unknown, path: string): readonly [string, string] | undefined {
  if (value === undefined) return undefined;
  if (typeof value === "string") return [value, ""];
  const first = Array.isArray(value) ? (value[0] as unknown) : undefined;
  if (typeof first === "string") return [first, ""];
  if (Array.isArray(first) && typeof first[0] === "string" && typeof first[1] === "string") return [first[0], first[1]];
  throw wrong(path, "client", 'a path, or pairs as in [["cert.pem", "key.pem"]]');
}

function booleanOf(table: Table, key: string, path: string): boolean {
  const value = table[key];
  if (value !== undefined && typeof value !== "boolean") throw wrong(path, key, "true or false");
  return value === true;
}

function dialTimeout(value: unknown, path: string): number | undefined {
  if (value === undefined) return undefined;
  const match = typeof value === "string" ? /^(\d+(?:\.\d+)?)(ms|s|m)$/.exec(value) : null;
  if (match === null) throw wrong(path, "dial_timeout", 'a duration such as "10s"');
  return Number(match[1]) * { ms: 1, s: 1000, m: 60_000 }[match[2] as "ms" | "s" | "m"];
}

function isTable(value: unknown): value is Table {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function wrong(path: string, field: string, wanted: string): ImageError {
  return new ImageError("InvalidConfiguration", `${path}: ${field} must be ${wanted}`);
}
