/** Runtime handlers (RuntimeClass): which names a pod may ask for. */
import { invalid } from "./errors.ts";

/** In-process; "runc" is what a node's existing RuntimeClasses and containerd's default name. */
export const HANDLERS: readonly string[] = ["", "berth", "runc"];

export function handlerOf(name: string): string {
  if (!HANDLERS.includes(name)) {
    throw invalid(
      `runtime_handler: no runtime for "${name}" is configured; known: ${HANDLERS.filter((known) => known !== "").join(", ")}`,
    );
  }
  return name;
}
