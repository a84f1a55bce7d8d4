/** Whose credentials a host gets: those of the request, else the node's own for that host. */
import type { Credentials } from "../types.ts";
import type { RegistrySettings } from "./settings.ts";
import type { RegistryHost } from "./host.ts";

/** By host as in URLs ("registry.example:5000", "docker.io"). */
export type HostCredentials = Readonly<Record<string, Credentials>>;

interface Sources {
  readonly credentials?: Credentials | undefined;
  readonly hostCredentials?: HostCredentials | undefined;
  readonly registries?: Partial<RegistrySettings> | undefined;
}

/**
 * Credentials of the request that name a server are for that server alone; others for each host that the node's
 * administrator has put in the registry's place.
 */
export function credentialsFor({ base }: Pick<RegistryHost, "base">, sources: Sources): Credentials | undefined {
  const host = new URL(base).host;
  const { credentials, hostCredentials = {}, registries = {} } = sources;
  if (credentials !== undefined && isFor(credentials, host)) return credentials;
  return registries.configs?.[host]?.auth ?? hostCredentials[credentialHost(host)];
}

function isFor({ serverAddress = "" }: Credentials, host: string): boolean {
  return serverAddress === "" || credentialHost(serverAddress) === credentialHost(host);
}

const DOCKER_HUB = new Set(["docker.io", "index.docker.io", "registry-1.docker.io", "auth.docker.io"]);

/** The host that a key of docker's config.json means: keys are hosts, or URLs such as "https://index.docker.io/v1/". */
export function credentialHost(key: string): string {
  const host = URL.parse(/^https?:\/\//.test(key) ? key : `https://${key}`)?.host ?? key;
  return DOCKER_HUB.has(host) ? "docker.io" : host;
}
