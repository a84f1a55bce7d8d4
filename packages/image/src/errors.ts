/** What can go wrong with images, as one typed error. The gRPC edge maps `code`; the message is for a person. */

export type ImageErrorCode =
  /** No such image, tag, manifest or blob; also what a registry answers where it does not tell "denied" from "absent". */
  | "NotFound"
  | "InvalidReference"
  /** The registry wants credentials, or other ones. */
  | "Unauthorized"
  /** Content is not what its digest says, or not as long as its descriptor says. */
  | "DigestMismatch"
  /** The registry answered something that is no answer (status, protocol). */
  | "RegistryError"
  /** The registry cannot be reached, or gave up in the middle, after all retries. */
  | "Unavailable"
  /** The registry asks to come back later (429), after all retries. */
  | "RateLimited"
  | "NoSpace"
  | "Canceled"
  /** The caller's time was up. */
  | "DeadlineExceeded"
  /** A manifest, config, archive or layer that breaks its format. */
  | "InvalidImage"
  /** Well-formed, but not something this machine can run (platform, media type, schema 1). */
  | "Unsupported"
  /** A limit was passed; the message names it. */
  | "LimitExceeded"
  /** A configuration file (hosts.toml, policy.json, docker's config.json) is wrong. */
  | "InvalidConfiguration"
  /** A verifier or the signature policy does not allow the image. */
  | "VerificationFailed"
  /** Still used by something that is not part of the request. */
  | "InUse"
  /** A local failure: disk, permissions, a worker's end. */
  | "Internal";

export interface ImageErrorFields {
  /** Of the HTTP answer that caused it. */
  readonly status?: number | undefined;
  readonly url?: string | undefined;
  /** The host (RegistryHost.base) that is to blame, where there is another to ask. */
  readonly host?: string | undefined;
  readonly cause?: unknown;
}

export class ImageError extends Error {
  override readonly name = "ImageError";
  readonly code: ImageErrorCode;
  readonly status: number | undefined;
  readonly url: string | undefined;
  readonly host: string | undefined;

  constructor(code: ImageErrorCode, message: string, fields: ImageErrorFields = {}) {
    super(message, fields.cause === undefined ? undefined : { cause: fields.cause });
    this.code = code;
    this.status = fields.status;
    this.url = fields.url;
    this.host = fields.host;
  }
}

/** An ImageError as data, to cross a thread. */
export interface PlainError {
  readonly code: ImageErrorCode;
  readonly message: string;
  readonly status?: number | undefined;
  readonly url?: string | undefined;
  readonly host?: string | undefined;
}

export function toPlain(error: unknown): PlainError {
  const typed = toImageError(error);
  return { code: typed.code, message: typed.message, status: typed.status, url: typed.url, host: typed.host };
}

export function fromPlain(plain: PlainError): ImageError {
  return new ImageError(plain.code, plain.message, { status: plain.status, url: plain.url, host: plain.host });
}

/** Any error as an ImageError: ENOSPC and EDQUOT are NoSpace, an abort is Canceled, the rest Internal. */
export function toImageError(error: unknown, doing?: string): ImageError {
  if (error instanceof ImageError) return error;
  const message = error instanceof Error ? error.message : String(error);
  const told = doing === undefined ? message : `${doing}: ${message}`;
  const code = (error as { code?: unknown } | null)?.code;
  if (code === "ENOSPC" || code === "EDQUOT")
    return new ImageError("NoSpace", `no space left for images: ${told}`, { cause: error });
  if ((error as Error | null)?.name === "AbortError" || code === "ABORT_ERR" || code === "ECANCELED")
    return new ImageError("Canceled", told, { cause: error });
  return new ImageError("Internal", told, { cause: error });
}

/** The reason that an aborted signal carries, as an ImageError. */
export function canceled(signal: AbortSignal, what: string): ImageError {
  if (signal.reason instanceof ImageError) return signal.reason;
  if ((signal.reason as Error | undefined)?.name === "TimeoutError")
    return new ImageError("DeadlineExceeded", `${what}: the time given was up`, { cause: signal.reason });
  return new ImageError("Canceled", `${what}: canceled`, { cause: signal.reason });
}
