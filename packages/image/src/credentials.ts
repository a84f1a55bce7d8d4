/** What a client of berthd needs of this package: registry credentials as docker keeps them. */
export { ImageError } from "./errors.ts";
export { credentialHost } from "./registry/credentials.ts";
export { DockerConfig, type RunHelper } from "./registry/docker-config.ts";
export type { Credentials } from "./types.ts";
