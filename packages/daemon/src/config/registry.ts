/** Where images come from: hosts.toml directories, or the mirrors and configs of containerd 1.x's files. */
import type { RegistrySettings } from "@berth/image";
import { at } from "./handlers.ts";
import type { Reader } from "./reader.ts";

const DEFAULT_HOSTS_DIR = "/etc/berth/certs.d";

/** `table`: the images plugin's registry. Throws ConfigError. */
export function registryOf(table: Reader, hostsDir: string | undefined): RegistrySettings {
  const configured = table.string("config_path");
  const mirrors = Object.fromEntries(
    table
      .below("mirrors")
      .names()
      .map((name) => [name, table.below("mirrors", name).strings("endpoint") ?? []]),
  );
  if (configured !== undefined && Object.keys(mirrors).length > 0)
    throw at(
      table.entry("config_path"),
      "registry.config_path and registry.mirrors exclude each other; keep config_path",
    );
  const own = Object.keys(mirrors).length > 0 ? [] : [DEFAULT_HOSTS_DIR];
  const headers = table.below("headers");
  return {
    hostsDirs: hostsDir !== undefined ? [hostsDir] : configured !== undefined ? configured.split(":") : own,
    mirrors,
    configs: { ...authsOf(table.below("auths")), ...configsOf(table.below("configs")) },
    headers: Object.fromEntries(headers.names().map((name) => [name, headers.strings(name) ?? []])),
  };
}

type Config = RegistrySettings["configs"][string];

const configsOf = (table: Reader): Record<string, Config> =>
  Object.fromEntries(
    table.names().map((name) => [name, { ...authOf(table.below(name, "auth")), ...tlsOf(table.below(name, "tls")) }]),
  );

/** containerd's older form, by URL rather than by host. */
const authsOf = (table: Reader): Record<string, Config> =>
  Object.fromEntries(table.names().map((name) => [URL.parse(name)?.host || name, authOf(table.below(name))]));

function authOf(table: Reader): Pick<Config, "auth"> {
  if (table.names().length === 0) return {};
  const [username, password] = [table.string("username"), table.string("password")];
  const [auth, identityToken] = [table.string("auth"), table.string("identitytoken")];
  return {
    auth: {
      ...(username !== undefined && { username }),
      ...(password !== undefined && { password }),
      ...(auth !== undefined && { auth }),
      ...(identityToken !== undefined && { identityToken }),
    },
  };
}

function tlsOf(table: Reader): Pick<Config, "tls"> {
  if (table.names().length === 0) return {};
  const [caFile, certFile, keyFile] = [table.string("ca_file"), table.string("cert_file"), table.string("key_file")];
  return {
    tls: {
      skipVerify: table.bool("insecure_skip_verify") ?? false,
      ...(caFile !== undefined && { caFile }),
      ...(certFile !== undefined && { certFile }),
      ...(keyFile !== undefined && { keyFile }),
    },
  };
}
