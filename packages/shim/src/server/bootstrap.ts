/** What a shim's start is told on its standard input: the handler's options, or since containerd 2.3 all there is to know, with them. */
import { fromBinary } from "@bufbuild/protobuf";
import { type Any, AnySchema } from "@bufbuild/protobuf/wkt";
import { bootstrap, runcOptions, runtimeOptions } from "@berth/spec/shim";
import { nameOf } from "../any.ts";
import type { Invocation } from "./arguments.ts";

const OPTIONS: readonly string[] = [runcOptions.OptionsSchema.typeName, runtimeOptions.OptionsSchema.typeName];

/** Undefined: the handler has none. */
export function handlerOptions(stdin: Uint8Array, invocation: Pick<Invocation, "id" | "namespace">): Any | undefined {
  if (stdin.length === 0) return undefined;
  const params = paramsIn(stdin);
  // One can be read as the other: the newer says for whom it is, as the command line does.
  if (params?.instanceId !== invocation.id || params.namespace !== invocation.namespace)
    return fromBinary(AnySchema, stdin);
  return params.extensions.map(({ value }) => value).find((value) => value && OPTIONS.includes(nameOf(value)));
}

function paramsIn(stdin: Uint8Array): bootstrap.BootstrapParams | undefined {
  try {
    return fromBinary(bootstrap.BootstrapParamsSchema, stdin);
  } catch {
    // Options' bytes are no text, where a name should be.
    return undefined;
  }
}
