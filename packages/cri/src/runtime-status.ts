/** Version, Status and RuntimeConfig. */
import { create } from "@bufbuild/protobuf";
import { cri } from "@berth/spec";
import type { CriContext } from "./context.ts";
import { supportsUserns } from "./sandbox/userns.ts";

export function version(context: CriContext): Promise<cri.VersionResponse> {
  return Promise.resolve(
    create(cri.VersionResponseSchema, {
      version: "0.1.0",
      runtimeName: "berth",
      runtimeVersion: context.config.version,
      runtimeApiVersion: "v1",
    }),
  );
}

export function runtimeStatus(context: CriContext, request: cri.StatusRequest): Promise<cri.StatusResponse> {
  const network = context.cni.status();
  const features = {
    recursiveReadOnlyMounts: context.host.features.mountSetattr,
    userNamespaces: supportsUserns(context),
  };
  const response = create(cri.StatusResponseSchema, {
    status: {
      conditions: [
        { type: "RuntimeReady", status: true },
        {
          type: "NetworkReady",
          status: network.ready,
          reason: network.ready ? "" : "NetworkPluginNotReady",
          message: network.reason ?? "",
        },
      ],
    },
    // The kubelet looks for what pods without a handler get under the empty name.
    runtimeHandlers: ["", ...context.runtimes.handlers.keys()].map((name) => ({ name, features })),
    features: { supplementalGroupsPolicy: true, userNamespacesHostNetwork: supportsUserns(context) },
    info: request.verbose ? { config: JSON.stringify(verboseConfig(context)) } : {},
  });
  return Promise.resolve(response);
}

function verboseConfig({ config, paths }: CriContext): object {
  return { ...config, rootDir: paths.root, stateDir: paths.state, netnsDir: paths.netns, cgroupDriver: "cgroupfs" };
}

export function runtimeConfig(): Promise<cri.RuntimeConfigResponse> {
  return Promise.resolve(
    create(cri.RuntimeConfigResponseSchema, { linux: { cgroupDriver: cri.CgroupDriver.CGROUPFS } }),
  );
}
