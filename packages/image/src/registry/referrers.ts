/**
 * What a repository lists: its tags, and what refers to a manifest (signatures, attestations), by the referrers API or, where
 * a registry has none, by the tag that stands in for it (OCI distribution specification 1.1, "Listing Referrers").
 */
import { digestOf, image, parseDigest } from "@berth/spec/oci";
import { parseIndex } from "../documents.ts";
import { ImageError } from "../errors.ts";
import { RegistryClient } from "./client.ts";
import { asTransient, type Call } from "./exchange.ts";
import type { Capability } from "./host.ts";
import { type HttpResponse, printableUrl, readBody } from "./http.ts";
import type { RegistryPusher } from "./push.ts";

/** Of one answer of a list. */
const PAGE_BYTES_MAX = 4 << 20;
/** A list that goes on for ever is none. */
const PAGES_MAX = 10_000;
const PAGE_SIZE = 1000;

/** Sorted as the registry sorts them. Throws ImageError. */
export async function listTags(client: RegistryClient): Promise<string[]> {
  const what = `tags of ${client.exchange.name}`;
  const tags: string[] = [];
  await pages(client, "resolve", `tags/list?n=${PAGE_SIZE}`, what, (bytes) => {
    const { tags: page } = (parseJson(bytes, what) ?? {}) as { tags?: unknown };
    // Go writes an empty list as null.
    if (page === null || page === undefined) return;
    if (!Array.isArray(page) || !page.every((tag) => typeof tag === "string"))
      throw new ImageError("RegistryError", `${what}: the registry's list is none`);
    tags.push(...page);
  });
  return tags;
}

/** Descriptors of what refers to `digest`; only those of `artifactType`, where one is given. None is no error. */
export async function listReferrers(
  client: RegistryClient,
  digest: string,
  artifactType?: string,
): Promise<image.Descriptor[]> {
  parseDigest(digest);
  const found = (await byReferrersApi(client, digest, artifactType)) ?? (await byTag(client, digest));
  return artifactType === undefined ? found : found.filter((entry) => entry.artifactType === artifactType);
}

async function byReferrersApi(
  client: RegistryClient,
  digest: string,
  artifactType: string | undefined,
): Promise<image.Descriptor[] | undefined> {
  const query = artifactType === undefined ? "" : `?${new URLSearchParams({ artifactType }).toString()}`;
  const what = `referrers of ${client.exchange.name}@${digest}`;
  const found: image.Descriptor[] = [];
  try {
    await pages(client, "referrers", `referrers/${digest}${query}`, what, (bytes) => {
      found.push(...parseIndex(bytes, what).manifests);
    });
    return found;
  } catch (error) {
    // Registries of the time before answer 404, those that know only their own paths whatever they answer to others.
    if (error instanceof ImageError && isNoApi(error)) return undefined;
    throw error;
  }
}

const isNoApi = ({ code, status = 0 }: ImageError): boolean =>
  code === "NotFound" || code === "InvalidConfiguration" || status === 400 || status === 405 || status === 415;

async function byTag(client: RegistryClient, digest: string): Promise<image.Descriptor[]> {
  const document = await client.tagged(fallbackTag(digest));
  if (document === undefined || !image.isIndexType(document.mediaType)) return [];
  return [...parseIndex(document.bytes, `referrers of ${client.exchange.name}@${digest}`).manifests];
}

/** "sha256-<hex>". */
export function fallbackTag(digest: string): string {
  const { algorithm, hex } = parseDigest(digest);
  return `${algorithm}-${hex}`.slice(0, 128);
}

/** Adds a manifest that was pushed to the list of its subject's referrers, where the registry does not do so itself. */
export async function attachReferrer(
  pusher: RegistryPusher,
  bytes: Uint8Array,
  mediaType: string,
  done: boolean,
): Promise<void> {
  const document = JSON.parse(Buffer.from(bytes).toString("utf8")) as Partial<image.Manifest>;
  const { subject } = document;
  if (subject === undefined || done) return;
  const { http, options, session } = pusher.exchange;
  const client = new RegistryClient(http, { ...options, session });
  const entry: image.Descriptor = {
    mediaType,
    digest: digestOf(bytes),
    size: bytes.length,
    ...artifactTypeOf(document),
    ...(document.annotations === undefined ? {} : { annotations: document.annotations }),
  };
  const known = await byTag(client, subject.digest);
  if (known.some(({ digest }) => digest === entry.digest)) return;
  const index = { schemaVersion: 2, mediaType: image.MEDIA.ociIndex, manifests: [...known, entry] };
  await pusher.manifest(Buffer.from(JSON.stringify(index)), image.MEDIA.ociIndex, fallbackTag(subject.digest));
}

/** An image manifest without a type of its own is of its config's type. */
function artifactTypeOf({ artifactType, config }: Partial<image.Manifest>): { artifactType?: string } {
  const type = artifactType ?? config?.mediaType;
  return type === undefined ? {} : { artifactType: type };
}

/** Follows a list's "next" links (RFC 8288), within its own host. */
async function pages(
  client: RegistryClient,
  capability: Capability,
  path: string,
  what: string,
  take: (bytes: Buffer) => void,
): Promise<void> {
  const { exchange } = client;
  let next: string | URL | undefined = path;
  for (let page = 0; next !== undefined; page++) {
    if (page === PAGES_MAX) throw new ImageError("LimitExceeded", `${what}: more than ${PAGES_MAX} pages`);
    const call: Call = { method: "GET", path: next, what, accepts: [200] };
    next = await exchange.ask(capability, call, async (response) => {
      take(await readBody(response, PAGE_BYTES_MAX, what, exchange.options.signal).catch(asTransient));
      return nextOf(response, what);
    });
  }
}

function nextOf(response: HttpResponse, what: string): URL | undefined {
  const { link } = response.headers;
  const target = /<([^>]*)>\s*;[^,]*\brel="?next"?/i.exec(Array.isArray(link) ? link.join(",") : (link ?? ""))?.[1];
  if (target === undefined) return undefined;
  const url = URL.parse(target, response.url);
  if (url?.origin === response.url.origin) return url;
  throw new ImageError("RegistryError", `${what}: ${printableUrl(response.url)} continues its list at another host`);
}

function parseJson(bytes: Buffer, what: string): unknown {
  try {
    return JSON.parse(bytes.toString("utf8"));
  } catch (error) {
    throw new ImageError("RegistryError", `${what}: the registry's list is no JSON`, { cause: error });
  }
}
