/** Who to be at a registry: --creds, else what `docker login` or `nerdctl login` left. */
import { readFileSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import { parseReference } from "@berth/spec/oci";
import { Failure } from "../failure.ts";

export interface Credentials {
  readonly username: string;
  readonly password: string;
}

interface DockerConfig {
  readonly auths?: Readonly<
    Record<string, { readonly auth?: string; readonly username?: string; readonly password?: string }>
  >;
}

/** "user:password". */
export function parseCredentials(text: string): Credentials {
  const colon = text.indexOf(":");
  if (colon <= 0) throw new Failure("--creds: use user:password");
  return { username: text.slice(0, colon), password: text.slice(colon + 1) };
}

type Environment = Readonly<Record<string, string | undefined>>;

/** undefined: anonymous. Credential helpers are programs of docker's and are not asked. */
export function storedCredentials(image: string, env: Environment): Credentials | undefined {
  const path = join(env["DOCKER_CONFIG"] || join(env["HOME"] || homedir(), ".docker"), "config.json");
  const { auths = {} } = readConfig(path);
  const { domain } = parseReference(image);
  for (const [key, { auth, username, password }] of Object.entries(auths)) {
    if (registryOf(key) !== domain) continue;
    if (auth) return decode(auth, path, key);
    if (username && password) return { username, password };
  }
  return undefined;
}

/** Keys are hosts, or URLs as in docker's own "https://index.docker.io/v1/". */
function registryOf(key: string): string {
  const host = key.replace(/^https?:\/\//, "").replace(/\/.*$/, "");
  return host === "index.docker.io" || host === "registry-1.docker.io" ? "docker.io" : host;
}

function decode(auth: string, path: string, key: string): Credentials | undefined {
  const text = Buffer.from(auth, "base64").toString("utf8");
  const colon = text.indexOf(":");
  if (colon <= 0)
    throw new Failure(`${path}: auths["${key}"].auth is not the base64 form of user:password; log in again`);
  return { username: text.slice(0, colon), password: text.slice(colon + 1) };
}

function readConfig(path: string): DockerConfig {
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "ENOENT" || code === "ENOTDIR") return {};
    throw new Failure(`cannot read ${path}: ${(error as Error).message}`, undefined, { cause: error });
  }
  try {
    return JSON.parse(text) as DockerConfig;
  } catch (error) {
    throw new Failure(`${path} is not JSON: ${(error as Error).message}`, undefined, { cause: error });
  }
}
