/** What the OCI and containers' references say, without the protobuf services: a third of the time to load. */
export * as oci from "./runtime.ts";
export * as image from "./image.ts";
export * from "./digest.ts";
export * from "./duration.ts";
export * from "./reference.ts";
