/** CRIU's RPC, as far as requests are concerned; its answers are bosun's to read. */
import { create, fromBinary, toBinary, type MessageInitShape } from "@bufbuild/protobuf";
import { criu_cg_mode, type criu_opts, criu_optsSchema, criu_req_type, criu_reqSchema } from "./gen/criu/v3/rpc_pb.ts";

export { criu_cg_mode as CgroupsMode, criu_req_type as RequestType };
export type Options = Exclude<MessageInitShape<typeof criu_optsSchema>, criu_opts>;

/** An encoded criu_req. */
export function encodeRequest(type: criu_req_type, opts: Options): Uint8Array {
  return toBinary(criu_reqSchema, create(criu_reqSchema, { type, opts: create(criu_optsSchema, opts) }));
}

/** What an encoded criu_req asks for, for people. */
export function decodeRequest(bytes: Uint8Array): {
  readonly type: criu_req_type;
  readonly opts?: criu_opts | undefined;
} {
  return fromBinary(criu_reqSchema, bytes);
}
