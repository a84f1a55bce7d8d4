/** How a node reaches registries, as containerd's registry table has it: data that threads pass on. */
import type { Credentials } from "../types.ts";
import type { ProxySettings } from "./proxy.ts";

export interface RegistrySettings {
  /** Directories of <host>/hosts.toml; the first that has one for a registry counts, before `mirrors` and `tls`. */
  readonly hostsDirs: readonly string[];
  /** containerd 1.x: by registry ("*": any other), the URLs to ask first, in order. */
  readonly mirrors: Readonly<Record<string, readonly string[]>>;
  /** containerd 1.x: by host. */
  readonly configs: Readonly<Record<string, RegistryHostSettings>>;
  /** Sent to every registry. */
  readonly headers: Readonly<Record<string, readonly string[]>>;
  /** Default: the environment's HTTP_PROXY, HTTPS_PROXY and NO_PROXY. */
  readonly proxy?: ProxySettings;
}

export interface RegistryHostSettings {
  readonly auth?: Credentials;
  readonly tls?: {
    readonly skipVerify: boolean;
    readonly caFile?: string;
    readonly certFile?: string;
    readonly keyFile?: string;
  };
}
