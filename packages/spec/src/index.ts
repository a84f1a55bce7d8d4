/** The interfaces berth is built on, as types and pure functions: no I/O. Without protobuf: @berth/spec/oci. */
export * as cri from "./gen/runtime/v1/api_pb.ts";
export * as berth from "./gen/berth/v1/berth_pb.ts";
export * from "./oci.ts";
