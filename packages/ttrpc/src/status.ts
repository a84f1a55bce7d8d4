/** How calls end: gRPC's codes (grpc/doc/statuscodes.md). */

export const CODE = {
  ok: 0,
  cancelled: 1,
  unknown: 2,
  invalidArgument: 3,
  deadlineExceeded: 4,
  notFound: 5,
  alreadyExists: 6,
  permissionDenied: 7,
  resourceExhausted: 8,
  failedPrecondition: 9,
  aborted: 10,
  outOfRange: 11,
  unimplemented: 12,
  internal: 13,
  unavailable: 14,
} as const;

/** A call that failed; `code` is one of CODE, or another that the peer has said. */
export class TtrpcError extends Error {
  override readonly name = "TtrpcError";
  readonly code: number;

  constructor(code: number, message: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
  }
}

/** The connection has ended: nobody knows what became of the call. */
export class TtrpcClosed extends TtrpcError {
  constructor(message: string) {
    super(CODE.unavailable, message);
  }
}

/** What a caller is told of an error that was thrown at it. */
export function statusOf(error: unknown): { readonly code: number; readonly message: string } {
  if (error instanceof TtrpcError) return { code: error.code, message: error.message };
  const message = error instanceof Error ? error.message : String(error);
  return { code: CODE.unknown, message };
}
