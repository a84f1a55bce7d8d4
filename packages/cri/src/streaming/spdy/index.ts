/** SPDY/3.1, for the streaming server and for clients of one: @berth/cri/spdy, which loads nothing else of the CRI. */
export { SpdyConnection, type SpdyOptions } from "./connection.ts";
export type { Headers } from "./headers.ts";
export type { SpdyStream } from "./stream.ts";
