/** Errors of machines, as the CRI tells them. */
import { status } from "@grpc/grpc-js";
import { VmError } from "@berth/vm";
import { CriError, invalid, precondition, unimplemented } from "../../errors.ts";

/** Mapped to what the caller can do about it. */
export async function inVmsWords<T>(work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (!(error instanceof VmError)) throw error;
    if (error.code === "Denied") throw new CriError(status.PERMISSION_DENIED, error.message);
    if (error.code === "InvalidConfiguration" || error.code === "InvalidArgument") throw invalid(error.message);
    if (error.code === "Unsupported") throw unimplemented(error.message);
    if (error.code === "Missing") throw precondition(error.message);
    throw error;
  }
}
