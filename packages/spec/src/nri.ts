/** The Node Resource Interface's messages and services, for whoever serves or speaks to its plugins. */
export * from "./gen/nri/pkg/api/v1alpha1/api_pb.ts";
