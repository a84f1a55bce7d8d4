/** What Kata's agent serves in a guest (ttRPC). */
export * as agent from "./gen/kata/agent_pb.ts";
export * as agentOci from "./gen/kata/oci_pb.ts";
export * as agentTypes from "./gen/kata/types_pb.ts";
export * as csi from "./gen/kata/csi_pb.ts";
export * as health from "./gen/kata/health_pb.ts";
