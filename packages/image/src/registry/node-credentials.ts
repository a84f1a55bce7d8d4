/** Credentials of the node itself, for pulls that bring none: a config.json of docker's, and the helpers that it names. */
import type { Hand } from "@berth/kernel";
import type { Reference } from "@berth/spec/oci";
import { credentialHost, type HostCredentials } from "./credentials.ts";
import { DockerConfig, type RunHelper } from "./docker-config.ts";
import { hostsFor } from "./hosts.ts";
import type { RegistrySettings } from "./settings.ts";

/** Milliseconds for a helper to answer: some ask a service. */
const HELPER_TIMEOUT = 30_000;

/** For every host that is asked for `reference`. Rejects with ImageError. */
export async function nodeCredentials(
  path: string | undefined,
  reference: Reference,
  registries: Partial<RegistrySettings>,
  hand: Hand,
): Promise<HostCredentials | undefined> {
  if (path === undefined) return undefined;
  const config = await DockerConfig.read(path, helperOf(hand));
  const hosts = (await hostsFor(reference.domain, registries)).map(({ base }) => credentialHost(new URL(base).host));
  const found = await Promise.all([...new Set(hosts)].map(async (host) => [host, await config.find(host)] as const));
  return Object.fromEntries(
    found.flatMap(([host, credentials]) => (credentials === undefined ? [] : [[host, credentials]])),
  );
}

function helperOf(hand: Hand): RunHelper {
  return async (program, verb, stdin) => {
    const env = Object.fromEntries(
      Object.entries(process.env).filter((entry): entry is [string, string] => entry[1] !== undefined),
    );
    const command = { argv: [program, verb], env, stdin: Buffer.from(stdin) };
    const { status, stdout, stderr } = await hand.spawn(command, { timeoutMs: HELPER_TIMEOUT });
    return { status, stdout: Buffer.from(stdout).toString("utf8"), stderr: Buffer.from(stderr).toString("utf8") };
  };
}
