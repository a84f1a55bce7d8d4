/** `-info` (containerd 2.0): what the runtime behind a shim can do, as an encoded RuntimeInfo. */
import { readFileSync } from "node:fs";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { AnySchema } from "@bufbuild/protobuf/wkt";
import { introspection } from "@berth/spec/shim";
import { packJson } from "../any.ts";
import { type Program, VERSION } from "./program.ts";

export async function runtimeInfo({ name, parts }: Program): Promise<Uint8Array> {
  const stdin = readFileSync(0);
  const { features } = await parts();
  const info = create(introspection.RuntimeInfoSchema, {
    name,
    version: { version: VERSION },
    ...(stdin.length > 0 && { options: fromBinary(AnySchema, stdin) }),
    features: packJson("features/Features", features()),
  });
  return toBinary(introspection.RuntimeInfoSchema, info);
}
