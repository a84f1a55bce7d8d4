export { FakeDaemon } from "./daemon.ts";
export { RpcError } from "./grpc.ts";
export { runBerth, testShell, Sink } from "./shell.ts";
export { streamServer, type Peer } from "./streams.ts";
