/** What others may reuse of `berth`: the client of berthd's socket, the reader of container logs, and the stream client. */
export { connect, type CallOptions, type Client, type ServiceClient } from "./client.ts";
export { CODE, CallError, DaemonUnreachable } from "./call-error.ts";
export { chosenAddress, DEFAULT_ADDRESS, socketPath } from "./address.ts";
export { Failure } from "./failure.ts";
export { parseRecord, type LogRecord } from "./logs/record.ts";
export { readLog, readLogBatches, type ReadLogOptions } from "./logs/reader.ts";
export { openStream, type RemoteStream, type StreamEnd, type StreamOutputs } from "./stream/client.ts";
export { ContainerGone, waitForExit } from "./wait.ts";
