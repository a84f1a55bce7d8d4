/** Version, Status and RuntimeConfig. */
import { create } from "@bufbuild/protobuf";
import { cri } from "@berth/spec";
import type { CriContext } from "./context.ts";
import { featuresOf } from "./handler-features.ts";
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

/** A plugin that does not say how it is within this time is not ready. */
const PROBE_TIMEOUT_MS = 5_000;

export async function runtimeStatus(context: CriContext, request: cri.StatusRequest): Promise<cri.StatusResponse> {
  const network = await context.cni.probe({ timeoutMs: PROBE_TIMEOUT_MS });
  const features = {
    recursiveReadOnlyMounts: context.host.features.mountSetattr,
    userNamespaces: supportsUserns(context),
  };
  const handlers = [...context.runtimes.handlers].map(async ([name, handler]) => ({
    name,
    features: await featuresOf(context, handler, features),
  }));
  const runtimeHandlers = await Promise.all(handlers);
  // The kubelet looks for what pods without a handler get under the empty name.
  const standard = runtimeHandlers.find(({ name }) => name === context.runtimes.defaultHandler);
  return create(cri.StatusResponseSchema, {
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
    runtimeHandlers: [{ name: "", features: standard?.features ?? features }, ...runtimeHandlers],
    features: { supplementalGroupsPolicy: true, userNamespacesHostNetwork: supportsUserns(context) },
    info: request.verbose ? { config: JSON.stringify(verboseConfig(context)) } : {},
  });
}

function verboseConfig({ config, paths, runtimes }: CriContext): object {
  const cgroupDriver = runtimes.handlers.get(runtimes.defaultHandler)?.options.systemdCgroup ? "systemd" : "cgroupfs";
  return { ...config, rootDir: paths.root, stateDir: paths.state, netnsDir: paths.netns, cgroupDriver };
}

/** A node has one driver, and a kubelet asks for it once: the default handler's. */
export function runtimeConfig({ runtimes }: CriContext): Promise<cri.RuntimeConfigResponse> {
  const { SYSTEMD, CGROUPFS } = cri.CgroupDriver;
  const cgroupDriver = runtimes.handlers.get(runtimes.defaultHandler)?.options.systemdCgroup ? SYSTEMD : CGROUPFS;
  return Promise.resolve(create(cri.RuntimeConfigResponseSchema, { linux: { cgroupDriver } }));
}
