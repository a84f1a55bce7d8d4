/** Manifests and configs as they come from registries and archives, checked before anything relies on them. */
import { chainIds, image, InvalidDigest, parseDigest } from "@berth/spec/oci";
import { ImageError } from "./errors.ts";

/** Layers of one image; overlayfs takes 500 lower directories. */
const LAYERS_MAX = 500;

type Json = Record<string, unknown>;

export function parseManifest(bytes: Uint8Array, digest: string): image.Manifest {
  const what = `manifest ${digest}`;
  const document = parseObject(bytes, what);
  const config = checkDescriptor(document["config"], `${what}: config`);
  if (!Array.isArray(document["layers"])) throw new ImageError("InvalidImage", `${what} has no list of layers`);
  const layers = document["layers"].map((layer, index) => checkDescriptor(layer, `${what}: layers[${index}]`));
  if (layers.length > LAYERS_MAX)
    throw new ImageError("LimitExceeded", `${what} has ${layers.length} layers (at most ${LAYERS_MAX})`);
  return { ...(document as unknown as image.Manifest), config, layers };
}

export function parseIndex(bytes: Uint8Array, what: string): image.Index {
  const document = parseObject(bytes, what);
  if (!Array.isArray(document["manifests"])) throw new ImageError("InvalidImage", `${what} has no list of manifests`);
  const manifests = document["manifests"].map((entry, index) => checkDescriptor(entry, `${what}: manifests[${index}]`));
  return { ...(document as unknown as image.Index), manifests };
}

/** A config whose layers belong to `manifest`. Artifacts and configs of other shapes are refused as Unsupported. */
export function parseConfig(bytes: Uint8Array, manifest: image.Manifest): image.ImageConfig {
  const { digest, mediaType } = manifest.config;
  const what = `config ${digest}`;
  if (mediaType !== image.MEDIA.ociConfig && mediaType !== image.MEDIA.dockerConfig) {
    throw new ImageError(
      "Unsupported",
      `not an image that can run: its config is of type ${mediaType}${manifest.artifactType === undefined ? "" : ` (artifact ${manifest.artifactType})`}`,
    );
  }
  const odd = manifest.layers.find((layer) => !image.isLayerType(layer.mediaType));
  if (odd !== undefined)
    throw new ImageError(
      "Unsupported",
      `layer ${odd.digest} is of type ${odd.mediaType}, which is no file system layer`,
    );
  const document = parseObject(bytes, what);
  const rootfs = document["rootfs"] as Json | undefined;
  const diffIds = rootfs?.["diff_ids"] ?? [];
  if (!Array.isArray(diffIds) || !diffIds.every((id) => typeof id === "string"))
    throw new ImageError("InvalidImage", `${what}: rootfs.diff_ids is no list of digests`);
  if (diffIds.length !== manifest.layers.length)
    throw new ImageError(
      "InvalidImage",
      `${what} names ${diffIds.length} layers, its manifest ${manifest.layers.length}`,
    );
  try {
    chainIds(diffIds);
  } catch (error) {
    if (error instanceof InvalidDigest)
      throw new ImageError("InvalidImage", `${what}: ${error.message}`, { cause: error });
    throw error;
  }
  for (const field of ["os", "architecture"])
    if (typeof document[field] !== "string") throw new ImageError("InvalidImage", `${what}: "${field}" is missing`);
  const defaults = checkDefaults(document["config"], what);
  return {
    ...(withoutNulls(document) as unknown as image.ImageConfig),
    config: defaults,
    rootfs: { type: "layers", diff_ids: diffIds },
  };
}

const STRINGS = ["User", "WorkingDir", "StopSignal"] as const;
const LISTS = ["Env", "Entrypoint", "Cmd"] as const;
const TABLES = ["ExposedPorts", "Volumes", "Labels"] as const;

/** Go writes absent lists as null. */
function checkDefaults(value: unknown, what: string): image.ContainerDefaults {
  if (value === undefined || value === null) return {};
  if (!isObject(value)) throw new ImageError("InvalidImage", `${what}: "config" is no object`);
  const kept = withoutNulls(value);
  const bad = (field: string, wanted: string): ImageError =>
    new ImageError("InvalidImage", `${what}: config.${field} is no ${wanted}`);
  for (const field of STRINGS)
    if (kept[field] !== undefined && typeof kept[field] !== "string") throw bad(field, "string");
  for (const field of LISTS) {
    const list = kept[field];
    if (list !== undefined && (!Array.isArray(list) || !list.every((item) => typeof item === "string")))
      throw bad(field, "list of strings");
  }
  for (const field of TABLES) if (kept[field] !== undefined && !isObject(kept[field])) throw bad(field, "object");
  for (const label of Object.values((kept["Labels"] ?? {}) as Json))
    if (typeof label !== "string") throw bad("Labels", "object of strings");
  return kept;
}

function checkDescriptor(value: unknown, what: string): image.Descriptor {
  if (!isObject(value)) throw new ImageError("InvalidImage", `${what} is no descriptor`);
  const { digest, size, mediaType } = value;
  if (typeof digest !== "string" || typeof mediaType !== "string")
    throw new ImageError("InvalidImage", `${what} has no digest or media type`);
  if (typeof size !== "number" || !Number.isSafeInteger(size) || size < 0)
    throw new ImageError("InvalidImage", `${what} has no valid size`);
  try {
    parseDigest(digest);
  } catch (error) {
    if (error instanceof InvalidDigest)
      throw new ImageError("InvalidImage", `${what}: ${error.message}`, { cause: error });
    throw error;
  }
  return value as unknown as image.Descriptor;
}

export function parseObject(bytes: Uint8Array, what: string): Json {
  let document: unknown;
  try {
    document = JSON.parse(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("utf8"));
  } catch (error) {
    throw new ImageError("InvalidImage", `${what} is no JSON`, { cause: error });
  }
  if (!isObject(document)) throw new ImageError("InvalidImage", `${what} is no JSON object`);
  return document;
}

function withoutNulls(value: Json): Json {
  return Object.fromEntries(Object.entries(value).filter(([, content]) => content !== null));
}

function isObject(value: unknown): value is Json {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
