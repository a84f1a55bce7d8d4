/** Which kind serves whom. */
import type { CriContext } from "../context.ts";
import { unimplemented } from "../errors.ts";
import { handlerOf, type RuntimeHandler } from "../handlers.ts";
import type { ContainerRecord, SandboxRecord } from "../store/records.ts";
import type { RuntimeKind } from "./kind.ts";

type Kinds = Pick<CriContext, "kinds">;

/** Undefined: none of this version's. */
export const servedBy = ({ kinds }: Kinds, handler: RuntimeHandler): RuntimeKind | undefined =>
  kinds.find((kind) => kind.serves(handler));

/** Unimplemented: nothing serves it; refused for a pod, not at berthd's start. */
export function kindFor(context: Kinds, handler: RuntimeHandler): RuntimeKind {
  const kind = servedBy(context, handler);
  if (kind) return kind;
  throw unimplemented(
    `runtime_handler: "${handler.name}": this version of berth has nothing that serves runtime_type ${handler.type}`,
  );
}

/** The kind that a pod was made by; for a pod that is namespaces alone, any in-process kind says the same. */
export const kindOfPod = (context: Kinds, { runtime }: Pick<SandboxRecord, "runtime">): RuntimeKind =>
  named(context, runtime ?? "in-process");

/** The kind of a pod's next container: a handler without pods of its own may have been changed meanwhile. */
export function kindOfNext(context: CriContext, { runtime, handler }: SandboxRecord): RuntimeKind {
  return runtime === undefined ? kindFor(context, handlerOf(context, handler)) : named(context, runtime);
}

export const kindOf = (context: Kinds, { runtime, binary }: Pick<ContainerRecord, "runtime" | "binary">): RuntimeKind =>
  named(context, runtime ?? (binary === undefined ? "in-process" : "oci"));

function named({ kinds }: Kinds, name: string): RuntimeKind {
  const kind = kinds.find((one) => one.name === name);
  if (!kind) throw new Error(`the record names the runtime kind "${name}", which this version of berth does not have`);
  return kind;
}
