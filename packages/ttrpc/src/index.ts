/** ttRPC (containerd/ttrpc, PROTOCOL.md): what shims, containerd and Kata's agent speak. */
export { type CallOptions, type ClientStream, type Metadata, TtrpcClient } from "./client.ts";
export { encodeFrame, FrameDecoder, HEADER_BYTES, TYPE } from "./frame.ts";
export { numberPlace, openFrame, requestFrame } from "./request.ts";
export { type Call, type Handlers, TtrpcServer } from "./server.ts";
export { CODE, TtrpcClosed, TtrpcError } from "./status.ts";
