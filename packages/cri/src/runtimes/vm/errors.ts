/** Errors of machines, as the CRI tells them. */
import { VmError } from "@berth/vm";
import { invalid, precondition, unimplemented } from "../../errors.ts";

/** Mapped to what the caller can do about it. */
export async function inVmsWords<T>(work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (!(error instanceof VmError)) throw error;
    if (error.code === "InvalidConfiguration") throw invalid(error.message);
    if (error.code === "Unsupported") throw unimplemented(error.message);
    if (error.code === "Missing") throw precondition(error.message);
    throw error;
  }
}
