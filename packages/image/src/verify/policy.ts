/**
 * Which images may be pulled: a policy file in the format of containers-policy.json(5). Read strictly: what it says that is
 * not understood is an error, as guessing would let images in.
 */
import { createPublicKey, type KeyObject } from "node:crypto";
import { readFile } from "node:fs/promises";
import { formatReference, type Reference, repositoryOf } from "@berth/spec/oci";
import { ImageError } from "../errors.ts";
import { type Identity, parseIdentity } from "./identity.ts";

export type Requirement =
  | { readonly type: "insecureAcceptAnything" }
  | { readonly type: "reject" }
  | { readonly type: "sigstoreSigned"; readonly keys: readonly KeyObject[]; readonly identity: Identity }
  /** Known to the format, but not to berth: refuses every image that it is for. */
  | { readonly type: "unsupported"; readonly why: string };

export interface Policy {
  readonly path: string;
  readonly standard: readonly Requirement[];
  /** By transport and scope. */
  readonly transports: Readonly<Record<string, Readonly<Record<string, readonly Requirement[]>>>>;
}

/** What an image is pulled by, or an archive's kind. */
export type Transport = "docker" | "docker-archive" | "oci-archive" | "oci";

type Table = Record<string, unknown>;

/** Rejects with ImageError InvalidConfiguration. */
export async function readPolicy(path: string): Promise<Policy> {
  let root: unknown;
  try {
    root = JSON.parse(await readFile(path, "utf8"));
  } catch (error) {
    throw invalid(path, `cannot be read: ${(error as Error).message}`);
  }
  const { default: standard, transports = {}, ...rest } = tableOf(root, path, "the file");
  noMore(rest, path, "the file");
  if (standard === undefined) throw invalid(path, '"default" is missing');
  const byTransport = await mapAsync(tableOf(transports, path, "transports"), async (scopes, transport) => {
    const table = tableOf(scopes, path, `transports.${transport}`);
    return await mapAsync(
      table,
      async (list, scope) => await requirements(list, path, `transports.${transport}."${scope}"`),
    );
  });
  return { path, standard: await requirements(standard, path, "default"), transports: byTransport };
}

/** The requirements of the most specific scope. For archives, which have no name that could be trusted, the transport's own. */
export function requirementsFor(policy: Policy, transport: Transport, reference?: Reference): readonly Requirement[] {
  const scopes = policy.transports[transport] ?? {};
  const names = reference === undefined ? [] : scopesOf(reference);
  for (const scope of [...names, ""]) if (Object.hasOwn(scopes, scope)) return scopes[scope] ?? [];
  return policy.standard;
}

/** "host:5000/a/b:1", "host:5000/a/b", "host:5000/a", "host:5000", "*.example.com" …: containers-policy.json(5), "docker:". */
function scopesOf(reference: Reference): string[] {
  const scopes = [formatReference(reference)];
  for (let name = repositoryOf(reference); name !== ""; name = name.slice(0, Math.max(0, name.lastIndexOf("/"))))
    scopes.push(name);
  const host = reference.domain.replace(/:\d+$/, "");
  for (let dot = host.indexOf("."); dot >= 0; dot = host.indexOf(".", dot + 1)) scopes.push(`*${host.slice(dot)}`);
  return scopes;
}

async function requirements(value: unknown, path: string, at: string): Promise<readonly Requirement[]> {
  if (!Array.isArray(value) || value.length === 0)
    throw invalid(path, `${at} must be a list of requirements, not empty`);
  return await Promise.all(value.map(async (entry, index) => await requirement(entry, path, `${at}[${index}]`)));
}

/** Of sigstoreSigned, but of certificates and the transparency log. */
const BEYOND_KEYS = [
  "fulcio",
  "pki",
  "rekorPublicKeyPath",
  "rekorPublicKeyPaths",
  "rekorPublicKeyData",
  "rekorPublicKeyDatas",
];

async function requirement(value: unknown, path: string, at: string): Promise<Requirement> {
  const { type, ...rest } = tableOf(value, path, at);
  switch (type) {
    case "insecureAcceptAnything":
    case "reject":
      noMore(rest, path, at);
      return { type };
    case "sigstoreSigned":
      return await sigstoreSigned(rest, path, at);
    case "signedBy":
      return { type: "unsupported", why: "it requires a GPG signature (signedBy), which berth does not check" };
    case "signedBaseLayer":
      return { type: "unsupported", why: "signedBaseLayer is not checked by anyone" };
    default:
      throw invalid(path, `${at}: type ${JSON.stringify(type)} is unknown`);
  }
}

async function sigstoreSigned(table: Table, path: string, at: string): Promise<Requirement> {
  const beyond = BEYOND_KEYS.find((key) => table[key] !== undefined);
  if (beyond !== undefined)
    return { type: "unsupported", why: `it requires "${beyond}", and berth checks signatures by public keys alone` };
  const { keyPath, keyPaths, keyData, keyDatas, signedIdentity, ...rest } = table;
  noMore(rest, path, at);
  const given = [keyPath, keyPaths, keyData, keyDatas].filter((entry) => entry !== undefined);
  if (given.length !== 1) throw invalid(path, `${at} needs exactly one of keyPath, keyPaths, keyData and keyDatas`);
  const paths = strings(keyPaths ?? (keyPath === undefined ? [] : [keyPath]), path, `${at}.keyPaths`);
  const datas = strings(keyDatas ?? (keyData === undefined ? [] : [keyData]), path, `${at}.keyDatas`);
  const files = await Promise.all(
    paths.map(async (file) => {
      const pem = await readFile(file).catch((error: unknown) => {
        throw invalid(path, `${at}: ${(error as Error).message}`);
      });
      return publicKey(pem, path, `${at}: ${file}`);
    }),
  );
  const inline = datas.map((data) => publicKey(Buffer.from(data, "base64"), path, `${at}: keyData`));
  if (files.length + inline.length === 0) throw invalid(path, `${at} names no key`);
  return {
    type: "sigstoreSigned",
    keys: [...files, ...inline],
    identity: parseIdentity(signedIdentity, (message) => invalid(path, `${at}.signedIdentity${message}`)),
  };
}

const KEY_TYPES = ["ec", "rsa", "ed25519"];

function publicKey(pem: Buffer, path: string, at: string): KeyObject {
  let key: KeyObject;
  try {
    key = createPublicKey(pem);
  } catch (error) {
    throw invalid(path, `${at} is no public key in PEM form: ${(error as Error).message}`);
  }
  // createPublicKey takes a private key too; that one is lying on a node would be a mistake to be told of.
  if (!pem.includes("PUBLIC KEY")) throw invalid(path, `${at} is not a public key`);
  if (!KEY_TYPES.includes(key.asymmetricKeyType ?? ""))
    throw invalid(path, `${at} is a key of type ${key.asymmetricKeyType}; ECDSA, RSA and ed25519 are checked`);
  return key;
}

async function mapAsync<T>(table: Table, map: (value: unknown, key: string) => Promise<T>): Promise<Record<string, T>> {
  const entries = Object.entries(table).map(async ([key, value]) => [key, await map(value, key)] as const);
  return Object.fromEntries(await Promise.all(entries));
}

function strings(value: unknown, path: string, at: string): readonly string[] {
  if (!Array.isArray(value) || !value.every((item) => typeof item === "string"))
    throw invalid(path, `${at} must be strings`);
  return value;
}

function tableOf(value: unknown, path: string, at: string): Table {
  if (typeof value !== "object" || value === null || Array.isArray(value))
    throw invalid(path, `${at} must be an object`);
  return value as Table;
}

function noMore(rest: Table, path: string, at: string): void {
  const [key] = Object.keys(rest);
  if (key !== undefined) throw invalid(path, `${at}: unknown key "${key}"`);
}

function invalid(path: string, message: string): ImageError {
  return new ImageError("InvalidConfiguration", `signature policy ${path}: ${message}`);
}
