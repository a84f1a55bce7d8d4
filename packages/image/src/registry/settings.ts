/** What a node's configuration says about registries, as containerd's registry table has it. */
import type { Credentials } from "../types.ts";

export interface RegistrySettings {
  /** Directories of <host>/hosts.toml; the first that has one for a registry counts. */
  readonly hostsDirs: readonly string[];
  /** containerd 1.x: by registry ("*": any other), the URLs to ask first, in order. */
  readonly mirrors: Readonly<Record<string, readonly string[]>>;
  /** containerd 1.x: by host. */
  readonly configs: Readonly<Record<string, RegistryHostSettings>>;
  /** Sent to every registry. */
  readonly headers: Readonly<Record<string, readonly string[]>>;
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
