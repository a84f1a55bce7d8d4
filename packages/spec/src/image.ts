/** The OCI image specification 1.1 and Docker's schema 2, as types; and the choice of a platform. */

export const MEDIA = {
  ociIndex: "application/vnd.oci.image.index.v1+json",
  ociManifest: "application/vnd.oci.image.manifest.v1+json",
  ociConfig: "application/vnd.oci.image.config.v1+json",
  ociLayer: "application/vnd.oci.image.layer.v1.tar",
  ociLayerGzip: "application/vnd.oci.image.layer.v1.tar+gzip",
  ociLayerZstd: "application/vnd.oci.image.layer.v1.tar+zstd",
  ociForeignLayer: "application/vnd.oci.image.layer.nondistributable.v1.tar",
  ociForeignLayerGzip: "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
  ociForeignLayerZstd: "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
  ociEmpty: "application/vnd.oci.empty.v1+json",
  dockerIndex: "application/vnd.docker.distribution.manifest.list.v2+json",
  dockerManifest: "application/vnd.docker.distribution.manifest.v2+json",
  dockerManifestV1: "application/vnd.docker.distribution.manifest.v1+json",
  dockerManifestV1Signed: "application/vnd.docker.distribution.manifest.v1+prettyjws",
  dockerConfig: "application/vnd.docker.container.image.v1+json",
  dockerLayer: "application/vnd.docker.image.rootfs.diff.tar",
  dockerLayerGzip: "application/vnd.docker.image.rootfs.diff.tar.gzip",
  dockerLayerZstd: "application/vnd.docker.image.rootfs.diff.tar.zstd",
  dockerForeignLayer: "application/vnd.docker.image.rootfs.foreign.diff.tar",
  dockerForeignLayerGzip: "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
} as const;

export interface Platform {
  readonly os: string;
  readonly architecture: string;
  readonly variant?: string;
  readonly "os.version"?: string;
  readonly "os.features"?: readonly string[];
}

export interface Descriptor {
  readonly mediaType: string;
  readonly digest: string;
  /** Bytes. */
  readonly size: number;
  readonly urls?: readonly string[];
  readonly annotations?: Readonly<Record<string, string>>;
  readonly platform?: Platform;
  readonly artifactType?: string;
  /** Base64 of the content itself. */
  readonly data?: string;
}

export interface Manifest {
  readonly schemaVersion: 2;
  readonly mediaType?: string;
  readonly artifactType?: string;
  readonly config: Descriptor;
  readonly layers: readonly Descriptor[];
  readonly subject?: Descriptor;
  readonly annotations?: Readonly<Record<string, string>>;
}

export interface Index {
  readonly schemaVersion: 2;
  readonly mediaType?: string;
  readonly artifactType?: string;
  readonly manifests: readonly Descriptor[];
  readonly subject?: Descriptor;
  readonly annotations?: Readonly<Record<string, string>>;
}

/** What a container made from the image runs with, unless it is told otherwise. Names as in the JSON. */
export interface ContainerDefaults {
  readonly User?: string;
  readonly ExposedPorts?: Readonly<Record<string, object>>;
  readonly Env?: readonly string[];
  readonly Entrypoint?: readonly string[];
  readonly Cmd?: readonly string[];
  readonly Volumes?: Readonly<Record<string, object>>;
  readonly WorkingDir?: string;
  readonly Labels?: Readonly<Record<string, string>>;
  readonly StopSignal?: string;
  readonly ArgsEscaped?: boolean;
}

export interface History {
  readonly created?: string;
  readonly created_by?: string;
  readonly author?: string;
  readonly comment?: string;
  readonly empty_layer?: boolean;
}

export interface ImageConfig extends Platform {
  /** RFC 3339. */
  readonly created?: string;
  readonly author?: string;
  readonly config?: ContainerDefaults;
  readonly rootfs: { readonly type: "layers"; readonly diff_ids: readonly string[] };
  readonly history?: readonly History[];
}

export function isIndexType(mediaType: string): boolean {
  return mediaType === MEDIA.ociIndex || mediaType === MEDIA.dockerIndex;
}

export function isManifestType(mediaType: string): boolean {
  return mediaType === MEDIA.ociManifest || mediaType === MEDIA.dockerManifest;
}

/** Docker's and OCI's layer types, whatever the compression, foreign ones included. */
export function isLayerType(mediaType: string): boolean {
  return (
    mediaType.startsWith(MEDIA.ociLayer) ||
    mediaType.startsWith("application/vnd.oci.image.layer.nondistributable.v1.tar") ||
    /^application\/vnd\.docker\.image\.rootfs\.(foreign\.)?diff\.tar(\.gzip|\.zstd)?$/.test(mediaType)
  );
}

/** Layers that registries need not have: their descriptors' `urls` say where they are. */
export function isForeignLayerType(mediaType: string): boolean {
  return mediaType.includes(".nondistributable.") || mediaType.includes(".foreign.");
}

/** One spelling for each platform: "x86_64" is amd64, "arm64/v8" is arm64, "arm" is arm/v7. */
export function normalizePlatform(platform: Platform): Platform {
  const os = platform.os.toLowerCase() === "macos" ? "darwin" : platform.os.toLowerCase();
  const { architecture, variant } = normalizeArchitecture(
    platform.architecture.toLowerCase(),
    (platform.variant ?? "").toLowerCase(),
  );
  return {
    os,
    architecture,
    ...(variant === "" ? {} : { variant }),
    ...(platform["os.version"] === undefined ? {} : { "os.version": platform["os.version"] }),
    ...(platform["os.features"] === undefined ? {} : { "os.features": platform["os.features"] }),
  };
}

function normalizeArchitecture(architecture: string, variant: string): { architecture: string; variant: string } {
  switch (architecture) {
    case "i386":
      return { architecture: "386", variant: "" };
    case "x86_64":
    case "x86-64":
    case "amd64":
      return { architecture: "amd64", variant: variant === "v1" ? "" : variant };
    case "aarch64":
    case "arm64":
      return { architecture: "arm64", variant: variant === "8" || variant === "v8" ? "" : variant };
    case "armhf":
      return { architecture: "arm", variant: "v7" };
    case "armel":
      return { architecture: "arm", variant: "v6" };
    case "arm":
      return {
        architecture: "arm",
        variant: variant === "" ? "v7" : /^[5-8]$/.test(variant) ? `v${variant}` : variant,
      };
    default:
      return { architecture, variant };
  }
}

/** What runs on `platform`, best first: itself, then what its processor also executes. */
export function acceptedPlatforms(platform: Platform): Platform[] {
  const wanted = normalizePlatform(platform);
  const { os, architecture } = wanted;
  const level = Number(/^v(\d+)$/.exec(wanted.variant ?? "")?.[1] ?? Number.NaN);
  const accepted: Platform[] = [wanted];
  const down = (name: string, from: number, to: number): void => {
    for (let n = from; n >= to; n--) accepted.push(normalizePlatform({ os, architecture: name, variant: `v${n}` }));
  };
  if (architecture === "amd64") {
    if (level > 1) down("amd64", level - 1, 1);
    accepted.push({ os, architecture: "386" });
  } else if (architecture === "arm64") {
    if (level > 8) down("arm64", level - 1, 8);
    down("arm", 8, 5);
  } else if (architecture === "arm" && level > 5) {
    down("arm", level - 1, 5);
  }
  return accepted;
}

function samePlatform(a: Platform, b: Platform): boolean {
  return a.os === b.os && a.architecture === b.architecture && (a.variant ?? "") === (b.variant ?? "");
}

/**
 * The manifest of an index that suits `platform` best; the first of equals. A manifest that names no platform is taken
 * only where none that does will do. Attestations (platform "unknown") never are.
 */
export function selectManifest(index: Index, platform: Platform): Descriptor | undefined {
  const candidates = index.manifests.filter((entry) => isManifestType(entry.mediaType) || isIndexType(entry.mediaType));
  for (const accepted of acceptedPlatforms(platform)) {
    const found = candidates.find(
      (entry) => entry.platform !== undefined && samePlatform(normalizePlatform(entry.platform), accepted),
    );
    if (found !== undefined) return found;
  }
  return candidates.find((entry) => entry.platform === undefined);
}

/** "linux/arm/v7". */
export function formatPlatform(platform: Platform): string {
  return [platform.os, platform.architecture, platform.variant]
    .filter((part) => part !== undefined && part !== "")
    .join("/");
}
