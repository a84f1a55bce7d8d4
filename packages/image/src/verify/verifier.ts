/** May this image be pulled? Asked once its digest is known, and before anything of it is fetched. */
import type { Hand } from "@berth/kernel";
import { formatReference, type image, type Reference } from "@berth/spec/oci";
import { ImageError } from "../errors.ts";
import type { Log } from "../types.ts";
import { askVerifiers, type BinDirOptions } from "./bindir.ts";
import { identityMatches } from "./identity.ts";
import { readPolicy, type Requirement, requirementsFor, type Transport } from "./policy.ts";
import { readSignature, type Signature } from "./signature.ts";

export interface VerificationOptions {
  /** containerd's verifier programs. Default: none. */
  readonly verifiers?: BinDirOptions;
  /** A policy file of containers-policy.json(5), read at every pull. Default: none, and every image is accepted. */
  readonly policyPath?: string;
}

export interface Candidate {
  readonly reference: Reference;
  /** What the reference names: an index, or the manifest. */
  readonly target: image.Descriptor;
  /** The manifest that was chosen: a signature of either is one of the image. */
  readonly manifest: string;
  readonly signatures: (digest: string) => Promise<readonly Signature[]>;
  readonly signal: AbortSignal | undefined;
}

export class Verifier {
  readonly #options: VerificationOptions;
  readonly #hand: Hand;
  readonly #log: Log;

  constructor(options: VerificationOptions, hand: Hand, log: Log) {
    this.#options = options;
    this.#hand = hand;
    this.#log = log;
  }

  /** Rejects with ImageError VerificationFailed, and InvalidConfiguration where the policy is wrong. */
  async check(candidate: Candidate): Promise<void> {
    const { verifiers, policyPath } = this.#options;
    const name = formatReference(candidate.reference);
    if (policyPath !== undefined) {
      const policy = await readPolicy(policyPath);
      for (const requirement of requirementsFor(policy, "docker", candidate.reference)) {
        const refusal = await this.#refusal(requirement, candidate);
        if (refusal !== undefined) throw refused(`image ${name}`, policyPath, refusal);
      }
    }
    if (verifiers === undefined) return;
    const { signal, target } = candidate;
    await askVerifiers(verifiers, name, target, { hand: this.#hand, log: this.#log, signal });
  }

  /** For images of an archive, which carries no signatures. Rejects as `check`. */
  async checkArchive(transport: Transport): Promise<void> {
    const { policyPath } = this.#options;
    if (policyPath === undefined) return;
    for (const requirement of requirementsFor(await readPolicy(policyPath), transport)) {
      if (requirement.type === "insecureAcceptAnything") continue;
      const why =
        requirement.type === "sigstoreSigned" ? "it must be signed, and archives carry no signatures" : undefined;
      throw refused(`import (${transport})`, policyPath, why ?? plainRefusal(requirement) ?? "");
    }
  }

  async #refusal(requirement: Requirement, candidate: Candidate): Promise<string | undefined> {
    if (requirement.type !== "sigstoreSigned") return plainRefusal(requirement);
    const { reference, target, manifest } = candidate;
    const reasons: string[] = [];
    for (const digest of new Set([target.digest, manifest])) {
      for (const signature of await candidate.signatures(digest)) {
        try {
          const claim = readSignature(signature, requirement.keys);
          if (claim.digest !== digest) reasons.push(`a signature is of ${claim.digest}`);
          else if (!identityMatches(requirement.identity, reference, claim.reference))
            reasons.push(`a signature is for "${claim.reference}" (signedIdentity: ${requirement.identity.type})`);
          else return undefined;
        } catch (error) {
          if (!(error instanceof ImageError) || error.code !== "VerificationFailed") throw error;
          reasons.push(`a signature does not count: ${error.message}`);
        }
      }
    }
    return reasons.length === 0 ? "it must be signed, and there is no signature" : [...new Set(reasons)].join("; ");
  }
}

function plainRefusal(requirement: Requirement): string | undefined {
  switch (requirement.type) {
    case "reject":
      return "it rejects every image of this name";
    case "unsupported":
      return requirement.why;
    default:
      return undefined;
  }
}

function refused(what: string, path: string, why: string): ImageError {
  return new ImageError("VerificationFailed", `${what} is refused by the signature policy ${path}: ${why}`);
}
