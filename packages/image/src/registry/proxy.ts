/**
 * Which proxy a URL is asked through. The rules are those that every Go program has, container runtimes among them
 * (golang.org/x/net/http/httpproxy): HTTP_PROXY for http URLs, HTTPS_PROXY for https URLs, NO_PROXY a list of names,
 * addresses and CIDRs; upper case counts before lower case; this machine itself is never reached through a proxy.
 */
import { BlockList, isIP } from "node:net";
import { ImageError } from "../errors.ts";

export interface ProxySettings {
  /** A proxy's URL; without a scheme http:// is meant. */
  readonly http?: string | undefined;
  readonly https?: string | undefined;
  /** Comma-separated. */
  readonly no?: string | undefined;
  /** For everything, whatever the others say. */
  readonly always?: string | undefined;
}

type Environment = Readonly<Record<string, string | undefined>>;

export function proxyFromEnvironment(env: Environment): ProxySettings {
  const named = (name: string): string | undefined => env[name] || env[name.toLowerCase()] || undefined;
  return { http: named("HTTP_PROXY"), https: named("HTTPS_PROXY"), no: named("NO_PROXY") };
}

/** The proxy for `url`; undefined: none. Throws InvalidConfiguration. */
export function proxyFor(url: URL, settings: ProxySettings): URL | undefined {
  if (settings.always !== undefined) return parseProxy(settings.always, "proxy");
  const secure = url.protocol === "https:";
  const text = secure ? settings.https : settings.http;
  if (text === undefined || text === "" || !usesProxy(url, settings.no ?? "")) return undefined;
  return parseProxy(text, secure ? "HTTPS_PROXY" : "HTTP_PROXY");
}

const SCHEMES = ["http:", "https:", "socks5:", "socks5h:"];

/** `name` is for messages. Throws InvalidConfiguration. */
export function parseProxy(text: string, name: string): URL {
  const url = URL.parse(/^[a-z0-9+.-]+:\/\//i.test(text) ? text : `http://${text}`);
  if (url === null || url.hostname === "")
    throw new ImageError("InvalidConfiguration", `${name} "${withoutSecrets(text)}" is not a URL`);
  if (!SCHEMES.includes(url.protocol))
    throw new ImageError(
      "InvalidConfiguration",
      `${name}: a proxy of type ${url.protocol.slice(0, -1)} is not supported (http, https, socks5 and socks5h are)`,
    );
  return url;
}

const withoutSecrets = (text: string): string => text.replace(/\/\/[^@/]*@/, "//");

export function isLoopback(hostname: string): boolean {
  return hostname === "localhost" || hostname === "[::1]" || hostname === "::1" || /^127(\.\d{1,3}){3}$/.test(hostname);
}

function usesProxy(url: URL, no: string): boolean {
  if (isLoopback(url.hostname)) return false;
  const host = url.hostname.replace(/^\[|\]$/g, "").replace(/\.$/, "");
  const port = url.port || (url.protocol === "https:" ? "443" : "80");
  return !no
    .split(",")
    .map((part) => part.trim().toLowerCase())
    .some((part) => part !== "" && matches(part, host, port));
}

function matches(part: string, host: string, port: string): boolean {
  if (part === "*") return true;
  const cidr = /^(.*)\/(\d{1,3})$/.exec(part);
  if (cidr !== null) return inNetwork(cidr[1] ?? "", Number(cidr[2]), host);
  const { name, port: onlyPort } = splitPort(part);
  if (onlyPort !== undefined && onlyPort !== port) return false;
  if (isIP(name) !== 0) return isIP(host) !== 0 && inNetwork(name, isIP(name) === 4 ? 32 : 128, host);
  const suffix = name.startsWith("*.") ? name.slice(1) : name;
  // ".example.com" is what is below the domain, "example.com" the domain too.
  return suffix.startsWith(".") ? host.endsWith(suffix) : host === suffix || host.endsWith(`.${suffix}`);
}

function inNetwork(network: string, prefix: number, host: string): boolean {
  const family = isIP(network);
  if (family === 0 || isIP(host) !== family || prefix > (family === 4 ? 32 : 128)) return false;
  const list = new BlockList();
  const type = family === 4 ? "ipv4" : "ipv6";
  list.addSubnet(network, prefix, type);
  return list.check(host, type);
}

function splitPort(part: string): { name: string; port: string | undefined } {
  const bracketed = /^\[(.*)\](?::(\d+))?$/.exec(part);
  if (bracketed !== null) return { name: bracketed[1] ?? "", port: bracketed[2] };
  if (isIP(part) !== 0) return { name: part, port: undefined };
  const [, name, port] = /^(.*):(\d+)$/.exec(part) ?? [];
  return name === undefined ? { name: part, port: undefined } : { name, port };
}

/** Of a proxy that carries any connection, whatever is said on it. */
export function isSocks(proxy: URL): boolean {
  return proxy.protocol.startsWith("socks5");
}

/** User and password in a proxy's URL. */
export function proxyLogin(proxy: URL): { readonly username: string; readonly password: string } | undefined {
  if (proxy.username === "" && proxy.password === "") return undefined;
  return { username: decodeURIComponent(proxy.username), password: decodeURIComponent(proxy.password) };
}

export function proxyAuthorization(proxy: URL): string | undefined {
  const login = proxyLogin(proxy);
  if (login === undefined) return undefined;
  return `Basic ${Buffer.from(`${login.username}:${login.password}`, "utf8").toString("base64")}`;
}
