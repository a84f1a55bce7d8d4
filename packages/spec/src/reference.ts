/**
 * Image references, with the grammar and the defaults that every container engine shares: `[domain/]path[:tag][@digest]`,
 * where a reference without a domain means docker.io, and a docker.io path of one component is below `library/`.
 */
import { isDigest } from "./digest.ts";

export interface Reference {
  /** Host and optional port: "docker.io", "localhost:5000", "[::1]:5000". */
  readonly domain: string;
  /** Repository within the domain: "library/busybox". */
  readonly path: string;
  readonly tag?: string;
  readonly digest?: string;
}

export class InvalidReference extends Error {
  override readonly name = "InvalidReference";
}

export const DEFAULT_DOMAIN = "docker.io";
export const DEFAULT_TAG = "latest";
const LEGACY_DEFAULT_DOMAIN = "index.docker.io";
const OFFICIAL = "library/";
const PATH_MAX = 255;

const domainComponent = "(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])";
const DOMAIN = new RegExp(`^(?:${domainComponent}(?:\\.${domainComponent})*|\\[[a-fA-F0-9:]+\\])(?::[0-9]+)?$`);
const PATH_COMPONENT = /^[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*$/;
const TAG = /^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$/;
const IDENTIFIER = /^[a-f0-9]{64}$/;

/** Parses and normalises. A missing tag stays missing: see `withDefaultTag`. Throws InvalidReference. */
export function parseReference(text: string): Reference {
  const fail = (why: string): never => {
    throw new InvalidReference(`invalid image reference "${text}": ${why}`);
  };
  if (text === "") fail("it is empty");
  if (IDENTIFIER.test(text)) fail("64 hexadecimal digits name an image id, not a repository");
  const { name, digest } = splitDigest(text);
  if (digest !== undefined && !isDigest(digest)) fail(`"${digest}" is not a digest`);
  const { domain, rest } = splitDomain(name);
  if (!DOMAIN.test(domain)) fail(`"${domain}" is not a host name with an optional port`);
  const colon = rest.indexOf(":");
  const tag = colon < 0 ? undefined : rest.slice(colon + 1);
  const short = colon < 0 ? rest : rest.slice(0, colon);
  if (tag !== undefined && !TAG.test(tag))
    fail(`"${tag}" is not a tag (letters, digits, "_", "." and "-", at most 128)`);
  if (short !== short.toLowerCase()) fail(`the repository name "${short}" must be lower-case`);
  const path = domain === DEFAULT_DOMAIN && !short.includes("/") ? OFFICIAL + short : short;
  if (path.length > PATH_MAX) fail(`the repository name is longer than ${PATH_MAX} characters`);
  for (const component of path.split("/"))
    if (!PATH_COMPONENT.test(component)) fail(`"${component}" is not a repository name component`);
  return { domain, path, ...(tag === undefined ? {} : { tag }), ...(digest === undefined ? {} : { digest }) };
}

function splitDigest(text: string): { name: string; digest: string | undefined } {
  const at = text.indexOf("@");
  return at < 0 ? { name: text, digest: undefined } : { name: text.slice(0, at), digest: text.slice(at + 1) };
}

/** The first component is a domain if it could not be a repository's: it has a dot or a colon, is localhost, or has upper case. */
function splitDomain(name: string): { domain: string; rest: string } {
  const slash = name.indexOf("/");
  const first = slash < 0 ? "" : name.slice(0, slash);
  if (!isDomain(first)) return { domain: DEFAULT_DOMAIN, rest: name };
  return { domain: first === LEGACY_DEFAULT_DOMAIN ? DEFAULT_DOMAIN : first, rest: name.slice(slash + 1) };
}

function isDomain(first: string): boolean {
  return /[.:]/.test(first) || first === "localhost" || first !== first.toLowerCase();
}

/** A reference that names neither a tag nor a digest means the tag "latest". */
export function withDefaultTag(reference: Reference): Reference {
  return reference.tag === undefined && reference.digest === undefined ? { ...reference, tag: DEFAULT_TAG } : reference;
}

/** "docker.io/library/busybox": what a reference names without tag and digest. */
export function repositoryOf(reference: Reference): string {
  return `${reference.domain}/${reference.path}`;
}

/** The full form: "docker.io/library/busybox:latest". */
export function formatReference(reference: Reference): string {
  return repositoryOf(reference) + suffix(reference);
}

/** The shortest form that parses to the same: "busybox:latest". */
export function familiarReference(reference: Reference): string {
  return familiarRepository(reference) + suffix(reference);
}

function familiarRepository({ domain, path }: Reference): string {
  if (domain !== DEFAULT_DOMAIN) return `${domain}/${path}`;
  const official = path.startsWith(OFFICIAL) && !path.slice(OFFICIAL.length).includes("/");
  if (official) return path.slice(OFFICIAL.length);
  const first = path.slice(0, Math.max(0, path.indexOf("/")));
  return isDomain(first) || first === "" ? `${domain}/${path}` : path;
}

function suffix({ tag, digest }: Reference): string {
  return (tag === undefined ? "" : `:${tag}`) + (digest === undefined ? "" : `@${digest}`);
}
