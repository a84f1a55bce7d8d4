/** What workers are asked to do: data only, as it crosses threads. worker.ts does it, pool.ts asks. */
import type { image, Reference } from "@berth/spec";
import type { HashTree } from "../erofs/hash-tree.ts";
import type { FetchedManifest, Session } from "../registry/client.ts";
import type { RegistrySettings } from "../registry/settings.ts";
import type { HostCredentials } from "../registry/credentials.ts";
import type { Pushed } from "../registry/push.ts";
import type { RetryPolicy } from "../registry/retry.ts";
import type { Signature } from "../verify/signature.ts";
import type { Credentials } from "../types.ts";
import type { LayerFormatName, LayerRef } from "../snapshots/layer-files.ts";
import type { AppliedLayer, LayerLimits } from "./apply.ts";

/** Where an unpacked layer goes: a directory that exists, or a file that is made. */
export type LayerTarget =
  | { readonly kind: "tree"; readonly directory: string }
  | { readonly kind: "erofs"; readonly file: string };

/** How a worker fills directories: `module` exports `openTree(socket, directory): Promise<TreeWriter>`. */
export interface TreeSource {
  readonly module: string;
  readonly socket: string;
}

export interface RemoteSource {
  readonly kind: "registry";
  readonly reference: Reference;
  readonly credentials?: Credentials | undefined;
  readonly hostCredentials?: HostCredentials | undefined;
  readonly registries?: Partial<RegistrySettings> | undefined;
  readonly session?: Session | undefined;
  /** Hosts (RegistryHost.base) that have sent other content than was asked for. */
  readonly avoid?: readonly string[] | undefined;
  readonly retry?: RetryPolicy | undefined;
}

export interface FileSource {
  readonly kind: "file";
  readonly path: string;
}

export interface Jobs {
  /** The reference's manifest or index and, of an index, the manifest for `platform`; `known`: a digest whose content need not be sent again. */
  resolve: {
    request: { source: RemoteSource; platform: image.Platform; known?: string | undefined };
    result: { target: string; documents: FetchedManifest[]; session: Session };
  };
  /** A small blob, whole and verified. */
  fetch: {
    request: { source: RemoteSource; descriptor: image.Descriptor; limit: number };
    result: { bytes: Uint8Array; session: Session };
  };
  /** Reads a layer once: stores it (`ingest`), verifies digest, size and diff id, and unpacks it into `target`. */
  layer: {
    request: {
      source: RemoteSource | FileSource;
      descriptor: image.Descriptor;
      diffId: string;
      ingest?: string | undefined;
      target: LayerTarget;
      tree: TreeSource;
      limits?: LayerLimits | undefined;
      aliases?: ReadonlyMap<string, string> | undefined;
    };
    result: AppliedLayer;
  };
  /** Completes an unpacked layer (snapshots/rebase.ts): `below` topmost first. Results in the aliases that it needs to be unpacked again with. */
  complete: {
    request: {
      target: LayerTarget;
      tree: TreeSource;
      applied: Pick<AppliedLayer, "implied" | "opaque" | "missingLinks">;
      below: readonly LayerRef[];
    };
    result: ReadonlyMap<string, string>;
  };
  /** Copies what layers of EROFS images (topmost first) make together into an existing directory. */
  merge: { request: { layers: readonly LayerRef[]; directory: string; tree: TreeSource }; result: undefined };
  /** Where two unpacked layers differ, in words. */
  compare: { request: { format: LayerFormatName; one: string; other: string }; result: string | undefined };
  /** dm-verity's hash tree of an EROFS image, appended to it or only computed (erofs/hash-tree.ts). */
  hashTree: { request: { path: string; append: boolean }; result: HashTree };
  /** The digest of a file's content, by the algorithm of `digest`. */
  digest: { request: { path: string; digest: string }; result: string };
  /** Makes a layer of `source`, an archive of an overlay's upper directory with its xattrs, by pax. */
  changes: { request: { source: string; target: string }; result: undefined };
  /** Unpacks an archive, compressed or not, as a layer into an existing directory. */
  unpack: {
    request: { path: string; directory: string; tree: TreeSource; limits?: LayerLimits | undefined };
    result: undefined;
  };
  /** Takes an archive apart: every regular file of it becomes a file in `directory`, hashed. The archive comes as chunks. */
  archive: { request: { directory: string; limits?: LayerLimits | undefined }; result: ArchiveMember[] };
  /** Copies a file into `ingest` and verifies it. */
  copy: { request: { path: string; descriptor: image.Descriptor; ingest: string }; result: { size: number } };
  /** Whatever a reference or digest names in a repository: a manifest, an index. */
  document: {
    request: { source: RemoteSource; digest?: string | undefined };
    result: { document: FetchedManifest; session: Session };
  };
  /** Sends a blob to `target`, unless it is there: a file, or one of another repository. */
  pushBlob: {
    request: {
      target: RemoteSource;
      descriptor: image.Descriptor;
      source: FileSource | RemoteSource;
      /** A repository of the target's registry that has the blob. */
      mountFrom?: string | undefined;
    };
    result: { pushed: Pushed; session: Session };
  };
  /** Sends a manifest or index. */
  pushManifest: {
    request: { target: RemoteSource; bytes: Uint8Array; mediaType: string; tag?: string | undefined };
    result: { digest: string; session: Session };
  };
  /** Whether the registry takes the credentials. */
  login: { request: { source: RemoteSource }; result: undefined };
  /** Signatures of `digest` beside it in its repository, unchecked. */
  signatures: { request: { source: RemoteSource; digest: string }; result: Signature[] };
  tags: { request: { source: RemoteSource }; result: string[] };
  referrers: {
    request: { source: RemoteSource; digest: string; artifactType?: string | undefined };
    result: image.Descriptor[];
  };
}

export interface ArchiveMember {
  /** Normalised. */
  readonly name: string;
  /** Where its content is; "" for a link. */
  readonly path: string;
  readonly size: number;
  readonly digest: string;
  /** Of a symlink or hard link: the normalised name of what it is a link to. */
  readonly link?: string;
}

export type JobName = keyof Jobs;

export interface JobProgress {
  readonly doneBytes: number;
  readonly totalBytes: number;
}
