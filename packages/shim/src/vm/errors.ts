/** Errors of machines, as containerd is told them. */
import { CODE, TtrpcError } from "@berth/ttrpc";
import { VmError, type VmErrorCode } from "@berth/vm";

const CODES: Readonly<Record<VmErrorCode, number>> = {
  InvalidConfiguration: CODE.invalidArgument,
  InvalidArgument: CODE.invalidArgument,
  Denied: CODE.permissionDenied,
  Unsupported: CODE.unimplemented,
  Missing: CODE.failedPrecondition,
  Hypervisor: CODE.unknown,
  Guest: CODE.unknown,
};

export async function inVmsWords<T>(work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (!(error instanceof VmError)) throw error;
    throw new TtrpcError(CODES[error.code], error.message);
  }
}
