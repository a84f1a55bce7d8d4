/** ttRPC's messages, containerd's Task API and what belongs to it, without the CRI's code. */
export * as ttrpc from "./gen/ttrpc/v1/ttrpc_pb.ts";
export * as rpc from "./gen/google/rpc/status_pb.ts";
export * as task from "./gen/containerd/task/v2/shim_pb.ts";
export * as taskV3 from "./gen/containerd/task/v3/shim_pb.ts";
export * as taskTypes from "./gen/containerd/types/task/task_pb.ts";
export * as types from "./gen/containerd/types/mount_pb.ts";
export * as envelope from "./gen/containerd/types/event_pb.ts";
export * as introspection from "./gen/containerd/types/introspection_pb.ts";
export * as bootstrap from "./gen/containerd/runtime/bootstrap/v1/bootstrap_pb.ts";
export * as events from "./gen/containerd/events/task_pb.ts";
export * as forward from "./gen/containerd/services/events/ttrpc/v1/events_pb.ts";
export * as runcOptions from "./gen/containerd/runc/v1/oci_pb.ts";
export * as runtimeOptions from "./gen/runtimeoptions/v1/api_pb.ts";
export * as cgroups1 from "./gen/containerd/cgroups/v1/metrics_pb.ts";
export * as cgroups2 from "./gen/containerd/cgroups/v2/metrics_pb.ts";
