/** Who to be at a registry: --creds, else what `berth login`, `docker login` or `nerdctl login` left. */
import { homedir } from "node:os";
import { join } from "node:path";
import { credentialHost, type Credentials, DockerConfig, ImageError } from "@berth/image/credentials";
import { InvalidReference, parseReference } from "@berth/spec/oci";
import { Failure } from "../failure.ts";
import type { Shell } from "../shell.ts";

/** As in berth.proto, RegistryAuth. */
export type RegistryAuth = Credentials;

/** "user:password". */
export function parseCredentials(text: string, option = "--creds"): RegistryAuth {
  const colon = text.indexOf(":");
  if (colon <= 0) throw new Failure(`${option}: use user:password`);
  return { username: text.slice(0, colon), password: text.slice(colon + 1) };
}

/** undefined: anonymous. */
export async function storedCredentials(image: string, shell: Shell): Promise<RegistryAuth | undefined> {
  return await storedFor(domainOf(image), shell);
}

/** `given`: the value of --creds. */
export async function credentialsOf(
  given: string | undefined,
  image: string,
  shell: Shell,
): Promise<RegistryAuth | undefined> {
  return given === undefined ? await storedCredentials(image, shell) : parseCredentials(given);
}

async function storedFor(host: string, shell: Shell): Promise<RegistryAuth | undefined> {
  const found = await withDockerConfig(shell, (config) => config.find(host));
  // Of one registry, and not for the mirrors that stand in for it.
  return found === undefined ? undefined : { ...found, serverAddress: host };
}

/** What is wrong with the file or a helper is the user's to put right. */
export async function withDockerConfig<T>(shell: Shell, use: (config: DockerConfig) => Promise<T>): Promise<T> {
  const { env } = shell;
  const path = join(env["DOCKER_CONFIG"] || join(env["HOME"] || homedir(), ".docker"), "config.json");
  try {
    return await use(await DockerConfig.read(path, (program, verb, stdin) => shell.run([program, verb], stdin)));
  } catch (error) {
    throw error instanceof ImageError ? new Failure(error.message, undefined, { cause: error }) : error;
  }
}

function domainOf(image: string): string {
  try {
    return credentialHost(parseReference(image).domain);
  } catch (error) {
    if (error instanceof InvalidReference) throw new Failure(error.message, undefined, { cause: error });
    throw error;
  }
}
