/** containerd's older way of naming mirrors: the tables `registry.mirrors` and `registry.configs`. */
import { readFile } from "node:fs/promises";
import { ImageError } from "../errors.ts";
import type { RegistrySettings, RegistryHostSettings } from "./settings.ts";
import { defaultHost, defaultServer, type RegistryHost, standsIn } from "./host.ts";
import { isLoopback, type TlsOptions } from "./http.ts";

/** Endpoints in order, then the registry itself unless it is among them. Throws InvalidConfiguration. */
export async function mirrorHosts(
  domain: string,
  { mirrors = {}, configs = {} }: Partial<RegistrySettings>,
): Promise<RegistryHost[]> {
  const endpoints = (Object.hasOwn(mirrors, domain) ? mirrors[domain] : mirrors["*"]) ?? [];
  const urls = endpoints.map((endpoint) => endpointUrl(endpoint, domain));
  const hosts: RegistryHost[] = [];
  for (const url of urls) {
    hosts.push({
      base: `${url.origin}${url.pathname === "/" ? "/v2" : url.pathname.replace(/\/+$/, "")}`,
      capabilities: ["pull", "resolve"],
      headers: {},
      tls: await readTls(configs[url.host]?.tls, url.host),
      mirror: standsIn(url, domain),
    });
  }
  if (urls.some((url) => url.host === domain)) return hosts;
  const { host } = new URL(defaultServer(domain));
  hosts.push(defaultHost(domain, await readTls(configs[host]?.tls, host)));
  return hosts;
}

function endpointUrl(endpoint: string, domain: string): URL {
  const url = URL.parse(/^[a-z][a-z0-9+.-]*:\/\//i.test(endpoint) ? endpoint : `${schemeFor(endpoint)}://${endpoint}`);
  if (url === null || url.hostname === "" || (url.protocol !== "http:" && url.protocol !== "https:"))
    throw new ImageError(
      "InvalidConfiguration",
      `registry.mirrors."${domain}".endpoint: "${endpoint}" is no host or http(s) URL`,
    );
  return url;
}

/** As containerd: plain HTTP for this machine's own, TLS for all others. */
const schemeFor = (endpoint: string): string =>
  isLoopback(endpoint.replace(/(:\d+)?(\/.*)?$/, "")) ? "http" : "https";

async function readTls(tls: RegistryHostSettings["tls"], host: string): Promise<TlsOptions> {
  const { skipVerify: skip = false, caFile: ca, certFile: cert, keyFile: key } = tls ?? {};
  if ((cert === undefined) !== (key === undefined))
    throw new ImageError(
      "InvalidConfiguration",
      `registry.configs."${host}".tls: cert_file and key_file go together, and one is missing`,
    );
  const read = async (path: string): Promise<string> => {
    try {
      return await readFile(path, "utf8");
    } catch (error) {
      throw new ImageError(
        "InvalidConfiguration",
        `registry.configs."${host}".tls: cannot read ${path}: ${(error as Error).message}`,
        { cause: error },
      );
    }
  };
  return {
    ...(ca === undefined ? {} : { ca: [await read(ca)] }),
    ...(cert === undefined || key === undefined ? {} : { clients: [{ cert: await read(cert), key: await read(key) }] }),
    ...(skip ? { skipVerify: true } : {}),
  };
}
