/** What the image store says about images, and takes: the vocabulary of `Images`. */
import type { image } from "@berth/spec";

export interface ImageRecord {
  /** "sha256:…", the digest of the image's config. */
  readonly id: string;
  /** Normalised "domain/path:tag". */
  readonly tags: readonly string[];
  /** "domain/path@sha256:…" by the digest that the registry knows it by (of the index, where there is one). */
  readonly digests: readonly string[];
  /** Bytes: manifest, config and the layers as they are transferred (compressed). */
  readonly size: number;
  readonly config: image.ContainerDefaults;
  readonly platform: image.Platform;
  /** As the image says, RFC 3339; absent if it does not. */
  readonly created?: string;
  /** Of the whole root file system; absent for an image without layers. */
  readonly chainId?: string;
  readonly diffIds: readonly string[];
  /** Of the image manifest for this platform. */
  readonly manifest: image.Descriptor;
  /** Not to be removed by anyone's garbage collection (CRI Image.pinned). */
  readonly pinned: boolean;
}

/** As in the CRI's AuthConfig; the first that is there counts: registryToken, identityToken, username and password, auth. */
export interface Credentials {
  readonly username?: string;
  readonly password?: string;
  /** Base64 of "username:password". */
  readonly auth?: string;
  /** Only for this host, where given; otherwise for every host that the reference leads to. */
  readonly serverAddress?: string;
  /** An OAuth2 refresh token, to be exchanged at the token server. */
  readonly identityToken?: string;
  /** A bearer token, sent as it is. */
  readonly registryToken?: string;
}

export type ProgressStatus = "waiting" | "downloading" | "unpacking" | "uploading" | "mounted" | "exists" | "done";

export interface Progress {
  /** A layer's digest, or "manifest", or "config". */
  readonly id: string;
  readonly status: ProgressStatus;
  readonly doneBytes: number;
  /** 0: not known yet. */
  readonly totalBytes: number;
}

export interface PullOptions {
  readonly auth?: Credentials;
  /** The pull ends within 100 ms of an abort and leaves nothing (unless another caller waits for the same). */
  readonly signal?: AbortSignal;
  readonly progress?: (progress: Progress) => void;
  /** Default: this machine's. */
  readonly platform?: image.Platform;
}

export interface ImportOptions {
  /** A reference for an image that the archive does not name. */
  readonly name?: string;
  readonly signal?: AbortSignal;
  readonly progress?: (progress: Progress) => void;
  readonly platform?: image.Platform;
}

/** Bytes allocated on disk and inodes. */
export interface Usage {
  readonly bytes: number;
  readonly inodes: number;
}

/** What a container's root file system is made of. Every path is absolute. */
export type Rootfs =
  /** An overlay that is to be mounted; `lowers` is topmost first, at least one. */
  | {
      readonly kind: "overlay";
      readonly lowers: readonly string[];
      readonly upper: string;
      readonly work: string;
      /** The EROFS images that are mounted as `lowers`, for a machine that mounts them itself; absent where one is a directory. */
      readonly images?: readonly string[];
    }
  /** A directory of the container's own. */
  | { readonly kind: "path"; readonly path: string };

export interface UserDatabase {
  /** Content of /etc/passwd and /etc/group; absent where the image has none. */
  readonly passwd?: Uint8Array;
  readonly group?: Uint8Array;
}

export interface StoreUsage {
  /** The directory whose file system holds the images. */
  readonly mountpoint: string;
  readonly usedBytes: number;
  readonly inodesUsed: number;
}

export type Log = (level: "info" | "warn", message: string) => void;
