/**
 * The errors of the CRI's verbs, each with the gRPC code that a kubelet expects for it. Errors of the packages below (OrderError,
 * image errors, CNI errors …) are mapped here and nowhere else.
 */
import { status } from "@grpc/grpc-js";
import { HandLost, MonitorLost, OrderError, ResourceError } from "@berth/kernel";
import { ImageError, type ImageErrorCode } from "@berth/image";
import { PlanError } from "@berth/runtime";

export class CriError extends Error {
  override readonly name = "CriError";
  readonly code: status;

  constructor(code: status, message: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
  }
}

export const notFound = (kind: string, id: string): CriError =>
  new CriError(status.NOT_FOUND, `${kind} "${id}" not found`);
export const invalid = (message: string): CriError => new CriError(status.INVALID_ARGUMENT, message);
export const precondition = (message: string): CriError => new CriError(status.FAILED_PRECONDITION, message);
export const unimplemented = (message: string): CriError => new CriError(status.UNIMPLEMENTED, message);

/** What an errno means to a caller of the CRI; the rest is Unknown, as the kubelet treats any failure to be retried. */
const ERRNO_STATUS: Readonly<Record<string, status>> = {
  ETIMEDOUT: status.DEADLINE_EXCEEDED,
  ECANCELED: status.CANCELLED,
  ENOSPC: status.RESOURCE_EXHAUSTED,
  EDQUOT: status.RESOURCE_EXHAUSTED,
};

/** https://sqlite.org/rescode.html */
const SQLITE_FULL = 13;

const IMAGE_STATUS: Readonly<Record<ImageErrorCode, status>> = {
  NotFound: status.NOT_FOUND,
  InvalidReference: status.INVALID_ARGUMENT,
  Unauthorized: status.PERMISSION_DENIED,
  DigestMismatch: status.FAILED_PRECONDITION,
  RegistryError: status.UNKNOWN,
  Unavailable: status.UNKNOWN,
  RateLimited: status.RESOURCE_EXHAUSTED,
  NoSpace: status.RESOURCE_EXHAUSTED,
  Canceled: status.CANCELLED,
  DeadlineExceeded: status.DEADLINE_EXCEEDED,
  InvalidImage: status.FAILED_PRECONDITION,
  Unsupported: status.FAILED_PRECONDITION,
  LimitExceeded: status.RESOURCE_EXHAUSTED,
  InvalidConfiguration: status.FAILED_PRECONDITION,
  VerificationFailed: status.UNKNOWN,
  InUse: status.FAILED_PRECONDITION,
  Internal: status.INTERNAL,
};

/**
 * What a kubelet knows an error of the registry by, and shows as a container's reason to wait: a message that begins so, with
 * the code Unknown (k8s.io/cri-api, pkg/errors; kubelet, evalCRIPullErr).
 */
const KUBELET_WORDS: Partial<Record<ImageErrorCode, string>> = {
  Unavailable: "RegistryUnavailable: ",
  VerificationFailed: "SignatureValidationFailed: ",
};

/** The gRPC code and message that answer a call which failed with `error`. */
export function toStatus(error: unknown): { code: status; details: string } {
  if (error instanceof CriError) return { code: error.code, details: error.message };
  // A configuration that cannot be carried out; the message names the field.
  if (error instanceof PlanError || error instanceof ResourceError)
    return { code: status.INVALID_ARGUMENT, details: error.message };
  if (error instanceof OrderError) return { code: ERRNO_STATUS[error.code] ?? status.UNKNOWN, details: error.message };
  if (error instanceof ImageError)
    return { code: IMAGE_STATUS[error.code], details: `${KUBELET_WORDS[error.code] ?? ""}${error.message}` };
  if (error instanceof HandLost || error instanceof MonitorLost)
    return { code: status.UNAVAILABLE, details: error.message };
  if (error instanceof Error) {
    if ((error as Error & { errcode?: number }).errcode === SQLITE_FULL)
      return {
        code: status.RESOURCE_EXHAUSTED,
        details: `the disk of berth's root directory is full: ${error.message}`,
      };
    if (error.name === "AbortError") return { code: status.CANCELLED, details: error.message };
    if (error.name === "TimeoutError") return { code: status.DEADLINE_EXCEEDED, details: error.message };
    const code = (error as NodeJS.ErrnoException).code;
    return { code: (code !== undefined ? ERRNO_STATUS[code] : undefined) ?? status.UNKNOWN, details: error.message };
  }
  return { code: status.UNKNOWN, details: String(error) };
}
