/** The kubelet's device plugin interface (v1beta1), without the CRI's code. */
export * from "./gen/deviceplugin/v1beta1/api_pb.ts";
