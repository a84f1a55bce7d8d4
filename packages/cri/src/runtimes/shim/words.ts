/** Failures of the process that stands for a shim's: what the shim has refused, as it said it. */
import { OrderError } from "@berth/kernel";

export async function inTheShimsWords<T>(work: Promise<T>): Promise<T> {
  try {
    return await work;
  } catch (error) {
    if (!(error instanceof OrderError) || error.orderName !== "shim_process") throw error;
    throw Object.assign(new OrderError(`shim: ${error.detail}`, error), { cause: error });
  }
}
