/**
 * containerd's image verifiers: every program of a directory is asked, and each may refuse (containerd's
 * docs/image-verification.md and pkg/imageverifier/bindir).
 */
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import type { Hand } from "@berth/kernel";
import type { image } from "@berth/spec/oci";
import { canceled, ImageError } from "../errors.ts";
import type { Log } from "../types.ts";

export interface BinDirOptions {
  /** Of programs; one that is not there refuses nothing. */
  readonly binDir: string;
  /** Programs after the first so many are not asked; negative: all are. Default 10. */
  readonly maxVerifiers?: number;
  /** Milliseconds for each. Default 10,000. */
  readonly perVerifierTimeoutMs?: number;
}

const OUTPUT_MAX = 32 * 1024;
const DESCRIPTOR_TYPE = "application/vnd.oci.descriptor.v1+json";

/** Rejects with VerificationFailed: one refuses, or cannot be asked. */
export async function askVerifiers(
  options: BinDirOptions,
  name: string,
  target: image.Descriptor,
  { hand, log, signal }: { readonly hand: Hand; readonly log: Log; readonly signal: AbortSignal | undefined },
): Promise<void> {
  const { binDir, maxVerifiers = 10, perVerifierTimeoutMs = 10_000 } = options;
  const programs = await programsIn(binDir);
  const asked = maxVerifiers < 0 ? programs : programs.slice(0, maxVerifiers);
  if (asked.length < programs.length)
    log("warn", `${binDir} has ${programs.length} image verifiers, and only the first ${asked.length} are asked`);
  for (const program of asked) {
    const argv = [join(binDir, program), "-name", name, "-digest", target.digest, "-stdin-media-type", DESCRIPTOR_TYPE];
    const answer = await hand
      .spawn(
        { argv, env: environment(), stdin: Buffer.from(`${JSON.stringify(target)}\n`), limit: OUTPUT_MAX },
        { timeoutMs: perVerifierTimeoutMs, ...(signal === undefined ? {} : { signal }) },
      )
      .catch((error: unknown) => {
        if (signal?.aborted === true) throw canceled(signal, "pull");
        throw new ImageError(
          "VerificationFailed",
          `image ${name}: cannot ask the verifier ${program}: ${(error as Error).message}`,
          { cause: error },
        );
      });
    const { status, stdout, stderr, truncated } = answer;
    const said = Buffer.from(stdout).toString("utf8").trim() + (truncated ? " (truncated)" : "");
    if (stderr.length > 0) log("info", `image verifier ${program}: ${Buffer.from(stderr).toString("utf8").trim()}`);
    if (status !== 0)
      throw new ImageError(
        "VerificationFailed",
        `image ${name}: verifier ${program} rejected image (exit code ${status}): ${said}`,
      );
  }
}

async function programsIn(directory: string): Promise<string[]> {
  try {
    return (await readdir(directory)).sort();
  } catch (error) {
    if ((error as { code?: string }).code === "ENOENT") return [];
    throw new ImageError("VerificationFailed", `cannot read the image verifiers: ${(error as Error).message}`, {
      cause: error,
    });
  }
}

/** As containerd gives its own to them. */
function environment(): Record<string, string> {
  return Object.fromEntries(
    Object.entries(process.env).filter((entry): entry is [string, string] => entry[1] !== undefined),
  );
}
