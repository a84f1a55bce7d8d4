/** The interfaces berth is built on, as types and pure functions: no I/O. */
export * as cri from "./gen/runtime/v1/api_pb.ts";
export * as berth from "./gen/berth/v1/berth_pb.ts";
export * as oci from "./runtime.ts";
export * as image from "./image.ts";
export * from "./digest.ts";
export * from "./reference.ts";
