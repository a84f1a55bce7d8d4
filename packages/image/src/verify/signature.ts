/**
 * Signatures as cosign stores them beside an image: a manifest at the tag `sha256-<hex>.sig`, each of whose layers is a
 * payload ("simple signing"), with the signature of it as an annotation (cosign, specs/SIGNATURE_SPEC.md).
 */
import { type KeyObject, verify } from "node:crypto";
import { image, parseDigest } from "@berth/spec/oci";
import { parseManifest } from "../documents.ts";
import { ImageError } from "../errors.ts";
import type { RegistryClient } from "../registry/client.ts";
import { listReferrers } from "../registry/referrers.ts";

export interface Signature {
  readonly payload: Uint8Array;
  /** Base64. */
  readonly signature: string;
}

const PAYLOAD_TYPE = "application/vnd.dev.cosign.simplesigning.v1+json";
const ARTIFACT_TYPE = "application/vnd.dev.cosign.artifact.sig.v1+json";
const SIGNATURE = "dev.cosignproject.cosign/signature";
const PAYLOAD_MAX = 1 << 20;
/** Of one image; someone who may push could else keep a node busy. */
const SIGNATURES_MAX = 64;

/** Signatures of the manifest or index `digest`, unchecked. None is no error. */
export async function fetchSignatures(client: RegistryClient, digest: string): Promise<Signature[]> {
  const { algorithm, hex } = parseDigest(digest);
  const documents = [await client.tagged(`${algorithm}-${hex}.sig`)];
  if (documents[0] === undefined)
    for (const { digest: referrer } of (await listReferrers(client, digest, ARTIFACT_TYPE)).slice(0, SIGNATURES_MAX))
      documents.push(await client.manifest(referrer));
  const found: Signature[] = [];
  for (const document of documents) {
    if (document === undefined || !image.isManifestType(document.mediaType)) continue;
    for (const layer of parseManifest(document.bytes, document.digest).layers) {
      const signature = layer.annotations?.[SIGNATURE];
      if (layer.mediaType !== PAYLOAD_TYPE || signature === undefined) continue;
      if (found.length === SIGNATURES_MAX)
        throw new ImageError("LimitExceeded", `${digest} has more than ${SIGNATURES_MAX} signatures`);
      found.push({ payload: await client.small(layer, PAYLOAD_MAX), signature });
    }
  }
  return found;
}

export interface SignedClaim {
  /** Of the manifest or index. */
  readonly digest: string;
  /** The name that it was signed as. */
  readonly reference: string;
}

/** What a signature by one of `keys` says. Throws VerificationFailed: by none of them, or it says nothing understood. */
export function readSignature({ payload, signature }: Signature, keys: readonly KeyObject[]): SignedClaim {
  const bytes = Buffer.from(signature, "base64");
  if (!keys.some((key) => isBy(key, payload, bytes))) throw failed("it is by none of the policy's keys");
  // Only now, as the payload is anyone's until a key has vouched for it.
  return parsePayload(payload);
}

/** ECDSA in DER form and RSA (PKCS #1 v1.5) over SHA-256, as sigstore has them; ed25519 over the payload itself. */
function isBy(key: KeyObject, payload: Uint8Array, signature: Uint8Array): boolean {
  return verify(key.asymmetricKeyType === "ed25519" ? null : "sha256", payload, key, signature);
}

function parsePayload(payload: Uint8Array): SignedClaim {
  let document: unknown;
  try {
    document = JSON.parse(Buffer.from(payload).toString("utf8"));
  } catch {
    throw failed("its payload is no JSON");
  }
  const { critical } = (document ?? {}) as {
    critical?: { type?: unknown; image?: Record<string, unknown>; identity?: Record<string, unknown> };
  };
  const digest = critical?.image?.["docker-manifest-digest"];
  const reference = critical?.identity?.["docker-reference"];
  if (critical?.type !== "cosign container image signature")
    throw failed(`its payload is of type ${JSON.stringify(critical?.type)}`);
  if (typeof digest !== "string" || typeof reference !== "string")
    throw failed("its payload names no digest or no reference");
  return { digest, reference };
}

const failed = (message: string): ImageError => new ImageError("VerificationFailed", message);
