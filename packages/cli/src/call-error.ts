/** How a call of berthd fails, without a need to load gRPC to recognise it. */
import { Failure } from "./failure.ts";

/** gRPC status codes that commands act on (google.rpc.Code). */
export const CODE = {
  cancelled: 1,
  unknown: 2,
  invalidArgument: 3,
  notFound: 5,
  alreadyExists: 6,
  failedPrecondition: 9,
  unimplemented: 12,
  unavailable: 14,
} as const;

/** berthd answered a call with an error; the message is berthd's own. */
export class CallError extends Error {
  override readonly name = "CallError";
  /** The CRI's name of the call: "CreateContainer". */
  readonly call: string;
  readonly code: number;
  readonly codeName: string;

  constructor(call: string, code: number, codeName: string, details: string) {
    super(details === "" ? `${call}: ${codeName}` : details);
    this.call = call;
    this.code = code;
    this.codeName = codeName;
  }
}

export const failedWith = (error: unknown, code: number): boolean => error instanceof CallError && error.code === code;

/** Nothing, or nothing that may be used, listens at the socket. */
export class DaemonUnreachable extends Failure {}

/** undefined: there was a connection, and it broke. */
export function unreachable(socket: string, details: string): DaemonUnreachable | undefined {
  if (details.includes("ENOENT"))
    return new DaemonUnreachable(
      `berthd is not running: there is no socket ${socket}; start it with "sudo berthd", or name another socket with --address`,
    );
  if (details.includes("ECONNREFUSED"))
    return new DaemonUnreachable(`berthd is not running: nobody listens at ${socket}; start it with "sudo berthd"`);
  if (details.includes("EACCES") || details.includes("EPERM"))
    return new DaemonUnreachable(`no permission to use ${socket}: run berth as root (sudo berth …)`);
  if (details.includes("ENOTSOCK") || details.includes("EPROTOTYPE"))
    return new DaemonUnreachable(`${socket} is not a unix stream socket`);
  return undefined;
}
