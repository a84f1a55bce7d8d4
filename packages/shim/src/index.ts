/** ttRPC, and shim v2 both ways. */
export { packJson, packMessage, unpackJson, unpackMessage } from "./any.ts";
export { type CallOptions, type ClientStream, type Metadata, TtrpcClient } from "./ttrpc/client.ts";
export { type Call, type Handlers, TtrpcServer } from "./ttrpc/server.ts";
export { CODE, TtrpcClosed, TtrpcError } from "./ttrpc/status.ts";
