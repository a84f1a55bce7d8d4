/** Which hosts are asked for what a registry has, in order: by hosts.toml, by the older tables, or the registry itself. */
import type { RegistrySettings } from "./settings.ts";
import type { RegistryHost } from "./host.ts";
import { readHostsDirectory } from "./hosts-toml.ts";
import { mirrorHosts } from "./mirrors.ts";

/** The hosts to ask for `domain`, in order; the registry itself comes last. Throws InvalidConfiguration. */
export async function hostsFor(domain: string, config: Partial<RegistrySettings> = {}): Promise<RegistryHost[]> {
  const directories = (config.hostsDirs ?? []).filter((path) => path !== "");
  const hosts = (await readHostsDirectory(directories, domain)) ?? (await mirrorHosts(domain, config));
  const common = Object.entries(config.headers ?? {}).map(([name, values]) => [name.toLowerCase(), values] as const);
  if (common.length === 0) return hosts;
  return hosts.map((host) => ({ ...host, headers: { ...Object.fromEntries(common), ...host.headers } }));
}
