/** PullImage: from a reference to a committed image. */
import {
  chainIds,
  formatReference,
  image,
  InvalidReference,
  parseReference,
  type Reference,
  repositoryOf,
  withDefaultTag,
} from "@berth/spec/oci";
import { parseConfig, parseIndex, parseManifest } from "./documents.ts";
import { ImageError } from "./errors.ts";
import type { RemoteSource } from "./layers/jobs.ts";
import type { WorkerPool } from "./layers/pool.ts";
import { CONFIG_MAX, type FetchedManifest, type Session } from "./registry/client.ts";
import type { HostCredentials } from "./registry/credentials.ts";
import type { RegistrySettings } from "./registry/settings.ts";
import type { RetryPolicy } from "./registry/retry.ts";
import type { ImageContent } from "./store/catalog.ts";
import type { Committer } from "./commit.ts";
import type { ContentStore } from "./store/content.ts";
import type { Lease } from "./store/leases.ts";
import type { Verifier } from "./verify/verifier.ts";
import type { Progress, PullOptions } from "./types.ts";

export interface PullContext {
  readonly pool: WorkerPool;
  readonly content: ContentStore;
  readonly committer: Committer;
  readonly registries: Partial<RegistrySettings>;
  readonly retry: RetryPolicy | undefined;
  readonly verifier: Verifier;
  /** The node's own, where the caller brings none. */
  readonly credentials: (reference: Reference) => Promise<HostCredentials | undefined>;
  /** What the reference means here already. */
  readonly known: (reference: string) => { readonly target: string; readonly content: ImageContent } | undefined;
}

/** Throws ImageError InvalidReference. */
export function referenceOf(text: string): Reference {
  try {
    return withDefaultTag(parseReference(text));
  } catch (error) {
    if (error instanceof InvalidReference) throw new ImageError("InvalidReference", error.message, { cause: error });
    throw error;
  }
}

/** The names that an image pulled as `reference` gets: its tag, and its repository's digest. A digest wins over a tag. */
export function namesFor(reference: Reference, target: string): string[] {
  const byDigest = `${repositoryOf(reference)}@${target}`;
  return reference.digest === undefined && reference.tag !== undefined
    ? [formatReference(reference), byDigest]
    : [byDigest];
}

/** Resolves to the id of the image, committed and durable. The caller ends the lease. */
export async function pullImage(
  text: string,
  options: PullOptions,
  lease: Lease,
  context: PullContext,
): Promise<string> {
  const { signal, progress = ignore } = options;
  const reference = referenceOf(text);
  const platform = options.platform ?? thisPlatform();
  const source: RemoteSource = {
    kind: "registry",
    reference,
    credentials: options.auth,
    hostCredentials: options.auth === undefined ? await context.credentials(reference) : undefined,
    registries: context.registries,
    retry: context.retry,
  };
  progress({ id: "manifest", status: "downloading", doneBytes: 0, totalBytes: 0 });
  context.pool.warm(1);
  const known = context.known(namesFor(reference, reference.digest ?? "")[0] as string);
  // Of an index, what is here may be the image of another variant than the one that is asked for by name.
  const chosen = options.platform === undefined || known?.target === known?.content.manifestDigest;
  const usable = known !== undefined && chosen && runsOn(known.content.config, platform) ? known : undefined;
  const { target, documents, session } = await context.pool.run(
    "resolve",
    { source, platform, known: usable?.target },
    { signal },
  );
  progress({ id: "manifest", status: "done", doneBytes: 0, totalBytes: 0 });
  lease.content(target, ...documents.map((document) => document.digest));
  const [first] = documents;
  await context.verifier.check({
    reference,
    target: {
      mediaType: first?.mediaType ?? usable?.content.targetType ?? "",
      digest: target,
      size: first?.bytes.length ?? context.content.size(target) ?? 0,
    },
    manifest: documents.at(-1)?.digest ?? usable?.content.manifestDigest ?? target,
    signatures: async (digest) =>
      await context.pool.run("signatures", { source: { ...source, session }, digest }, { signal }),
    signal,
  });
  const content =
    documents.length === 0 && usable !== undefined
      ? { ...usable.content, target: usable.target }
      : await fetchContent(documents, { ...source, session }, platform, lease, context, progress, signal);
  return await context.committer.commit({
    content,
    references: namesFor(reference, target),
    refs: refsOf(documents),
    source: () => ({ ...source, session }),
    store: true,
    lease,
    signal,
    progress,
  });
}

async function fetchContent(
  documents: readonly FetchedManifest[],
  source: RemoteSource & { session: Session },
  platform: image.Platform,
  lease: Lease,
  { pool, content }: PullContext,
  progress: (progress: Progress) => void,
  signal: AbortSignal | undefined,
): Promise<ImageContent> {
  const last = documents.at(-1) as FetchedManifest;
  const manifest = parseManifest(last.bytes, last.digest);
  const { config: descriptor } = manifest;
  lease.content(descriptor.digest, ...manifest.layers.map((layer) => layer.digest));
  for (const document of documents) await content.put(document.digest, document.bytes);
  let bytes: Uint8Array;
  if (content.has(descriptor.digest)) {
    bytes = await content.read(descriptor.digest);
  } else {
    progress({ id: "config", status: "downloading", doneBytes: 0, totalBytes: descriptor.size });
    ({ bytes } = await pool.run("fetch", { source, descriptor, limit: CONFIG_MAX }, { signal }));
    await content.put(descriptor.digest, bytes);
  }
  progress({ id: "config", status: "done", doneBytes: descriptor.size, totalBytes: descriptor.size });
  return contentOf(documents, manifest, bytes, platform);
}

/** `documents`: from the target down to the manifest. Throws Unsupported for another platform's image, and as parseConfig. */
export function contentOf(
  documents: readonly FetchedManifest[],
  manifest: image.Manifest,
  configBytes: Uint8Array,
  platform: image.Platform,
): ImageContent {
  const first = documents[0] as FetchedManifest;
  const last = documents.at(-1) as FetchedManifest;
  const config = parseConfig(configBytes, manifest);
  if (!runsOn(config, platform))
    throw new ImageError(
      "Unsupported",
      `the image is for ${image.formatPlatform(config)}, not for ${image.formatPlatform(platform)}`,
    );
  return {
    target: first.digest,
    targetType: first.mediaType,
    manifestDigest: last.digest,
    manifestType: last.mediaType,
    manifestSize: last.bytes.length,
    manifest,
    config,
    chainId: chainIds(config.rootfs.diff_ids).at(-1),
  };
}

/** What each document keeps in the store: an index only the manifest that was chosen. */
export function refsOf(documents: readonly FetchedManifest[]): [parent: string, child: string][] {
  const refs: [string, string][] = [];
  for (const [index, document] of documents.entries()) {
    const next = documents[index + 1];
    if (next !== undefined) {
      parseIndex(document.bytes, `index ${document.digest}`);
      refs.push([document.digest, next.digest]);
      continue;
    }
    const { config, layers } = parseManifest(document.bytes, document.digest);
    for (const child of [config, ...layers]) refs.push([document.digest, child.digest]);
  }
  return refs;
}

/** The platform of this process, in Go's names as images have them. */
export function thisPlatform(): image.Platform {
  const architectures: Partial<Record<NodeJS.Architecture, string>> = {
    x64: "amd64",
    ia32: "386",
    arm64: "arm64",
    arm: "arm",
    riscv64: "riscv64",
    ppc64: "ppc64le",
    s390x: "s390x",
    loong64: "loong64",
  };
  return image.normalizePlatform({ os: "linux", architecture: architectures[process.arch] ?? process.arch });
}

/** Throws NotFound where the image that is here is one for another platform than is asked for by name. */
export function requirePlatform(name: string, here: image.Platform, wanted: image.Platform): void {
  const [has, asked] = [here, wanted].map((platform) => image.formatPlatform(image.normalizePlatform(platform)));
  if (has === asked) return;
  throw new ImageError("NotFound", `image ${name} is here for ${has}, not for ${asked}: pull it for that first`);
}

/** Variants aside: many configs name none, or one that more processors run than it says. */
function runsOn(config: image.Platform, platform: image.Platform): boolean {
  const { os, architecture } = image.normalizePlatform(config);
  return image
    .acceptedPlatforms(platform)
    .some((accepted) => accepted.os === os && accepted.architecture === architecture);
}

function ignore(): void {}
