/** The device plugin, with the kubelet's part played here: what Allocate answers is what the container asks for. */
import { mkdirSync } from "node:fs";
import { FakeKubelet, type Resource } from "@berth/gpu/testing";
import * as api from "@berth/spec/device-plugin";
import { REPOSITORY, type Trial } from "./trial.ts";

const RESOURCE = "nvidia.com/gpu";

export interface Allocated {
  readonly ids: readonly string[];
  readonly cdiDevices: readonly string[];
  readonly healthy: number;
  /** From the plugin's start to its registration. */
  readonly registeredMs: number;
}

/** Of one GPU, the first of those that are healthy. Throws Error where the plugin ends, or has none. */
export async function allocateOne(trial: Trial, flags: readonly string[], env: NodeJS.ProcessEnv): Promise<Allocated> {
  mkdirSync(trial.path("plugins"));
  const kubelet = new FakeKubelet(trial.path("plugins"));
  await kubelet.start();
  try {
    const began = performance.now();
    const argv = [`${REPOSITORY}/bin/berth-device-plugin`, "--kubelet-socket", kubelet.socket, ...flags];
    let registeredMs = 0;
    const registered = kubelet.until(() => {
      const is = (kubelet.resources.get(RESOURCE)?.lists.length ?? 0) > 0;
      if (is && registeredMs === 0) registeredMs = performance.now() - began;
      return is;
    });
    const ended = trial.start("device-plugin", argv, "\0", env);
    await Promise.race([registered, ended]);
    const resource = kubelet.resources.get(RESOURCE);
    if (resource === undefined) throw new Error(`the plugin registered no ${RESOURCE}`);
    return { ...(await allocate(resource)), registeredMs };
  } finally {
    await kubelet.stop();
  }
}

async function allocate(resource: Resource): Promise<Omit<Allocated, "registeredMs">> {
  const healthy = Object.entries(resource.lists.at(-1) ?? {}).flatMap(([id, health]) =>
    health === "Healthy" ? id : [],
  );
  const { getPreferredAllocation, allocate: ask } = api.DevicePlugin.method;
  const asked = { availableDeviceIDs: healthy, mustIncludeDeviceIDs: [], allocationSize: 1 };
  const preferred = await resource.call(getPreferredAllocation, { containerRequests: [asked] });
  const ids = preferred.containerResponses[0]?.deviceIDs ?? [];
  if (ids.length === 0) throw new Error(`no healthy GPU is among ${Object.keys(resource.lists.at(-1) ?? {}).length}`);
  const { containerResponses } = await resource.call(ask, { containerRequests: [{ devicesIds: ids }] });
  const cdiDevices = (containerResponses[0]?.cdiDevices ?? []).map(({ name }) => name);
  if (cdiDevices.length === 0) throw new Error("Allocate answered no CDI device");
  return { ids, cdiDevices, healthy: healthy.length };
}
