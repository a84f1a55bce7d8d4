/** One host that is asked for what a registry has, and which one that is where nothing is configured. */
import { isLoopback, type TlsOptions } from "./http.ts";

export type Capability = "pull" | "resolve" | "push" | "referrers";

export interface RegistryHost {
  /** "https://registry-1.docker.io/v2", without a slash at the end. */
  readonly base: string;
  readonly capabilities: readonly Capability[];
  readonly headers: Readonly<Record<string, readonly string[]>>;
  readonly tls: TlsOptions;
  readonly dialTimeoutMs?: number;
  /** The proxy for this host alone, instead of the node's. */
  readonly proxy?: string;
  /** Not the registry itself: gets "?ns=<domain>", so that one mirror can stand in for several. */
  readonly mirror: boolean;
  /** The same host with the other scheme, for where only trying tells which one it speaks. */
  readonly other?: { readonly base: string; readonly tls: TlsOptions };
}

export const ALL: readonly Capability[] = ["pull", "resolve", "push", "referrers"];

/** The registry itself. On loopback, where ports say nothing of TLS, both are tried; nobody vouches for a certificate there. */
export function defaultHost(domain: string, tls: TlsOptions = {}): RegistryHost {
  const server = defaultServer(domain);
  const host = { capabilities: ALL, headers: {}, tls, mirror: false };
  const { hostname, port } = new URL(`http://${domain}`);
  if (!isLoopback(hostname)) return { ...host, base: `${server}/v2` };
  const unverified = { skipVerify: true, ...tls };
  const secure = { base: `https://${domain}/v2`, tls: unverified };
  if (server.startsWith("https:")) return { ...host, ...secure };
  const plain = { base: `${server}/v2`, tls };
  return { ...host, ...plain, ...(port === "" || port === "80" ? {} : { other: secure }) };
}

/** A URL's origin. "docker.io" is a name only: its content is elsewhere. */
export function defaultServer(domain: string): string {
  if (domain === "docker.io") return "https://registry-1.docker.io";
  const url = new URL(`http://${domain}`);
  const secure = !isLoopback(url.hostname) || !/:\d+$/.test(domain) || domain.endsWith(":443");
  return `${secure ? "https" : "http"}://${domain}`;
}

/** Whether a host stands in for `domain`, as its mirror or another name of it (containerd's rule for "ns"). */
export function standsIn(url: URL, domain: string): boolean {
  return url.host !== new URL(`${url.protocol}//${domain}`).host && url.host !== new URL(defaultServer(domain)).host;
}
