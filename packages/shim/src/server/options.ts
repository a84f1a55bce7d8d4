/** A handler's options, which containerd hands a shim at its start. */
import type { Any } from "@bufbuild/protobuf/wkt";
import { runcOptions, runtimeOptions } from "@berth/spec/shim";
import { unpackMessage } from "../any.ts";

/** Of runc's shim, which berth's stands in for; of others' options nothing is for it. */
export function optionsOf(any: Any | undefined): runcOptions.Options | undefined {
  const options = unpackMessage(any, runcOptions.OptionsSchema);
  if (any && !options && !unpackMessage(any, runtimeOptions.OptionsSchema))
    throw new Error(`options of type ${any.typeUrl}; berth's shim takes containerd.runc.v1.Options`);
  return options;
}
