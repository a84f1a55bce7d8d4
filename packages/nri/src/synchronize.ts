/** What exists already, told to a plugin that has just come: in as many messages as their sizes make of it. */
import { create, toBinary } from "@bufbuild/protobuf";
import {
  type Container,
  ContainerSchema,
  type ContainerUpdate,
  Plugin as PluginService,
  type PodSandbox,
  PodSandboxSchema,
  SynchronizeRequestSchema,
} from "@berth/spec/nri";
import type { Plugin } from "./plugin.ts";

export interface Known {
  readonly pods: readonly PodSandbox[];
  readonly containers: readonly Container[];
}

/** Of ttRPC's 4 MiB, less what a request and the fields' own headers take. */
const MAX_BYTES = (4 << 20) - (64 << 10);

/** What the plugin wants updated. Rejects when it fails, or cannot take several messages where there are several. */
export async function synchronize(plugin: Plugin, known: Known, maxBytes = MAX_BYTES): Promise<ContainerUpdate[]> {
  const messages = portions(known, maxBytes);
  for (const [index, portion] of messages.entries()) {
    const more = index < messages.length - 1;
    const request = create(SynchronizeRequestSchema, { ...portion, more });
    const answer = await plugin.askAtLeisure(PluginService.method.synchronize, request);
    if (!more) return answer.update;
    if (!answer.more || answer.update.length > 0) throw new Error("the plugin does not handle split sync requests");
  }
  return [];
}

function portions({ pods, containers }: Known, maxBytes: number): { pods: PodSandbox[]; containers: Container[] }[] {
  const all = [{ pods: [] as PodSandbox[], containers: [] as Container[] }];
  let size = 0;
  const place = (bytes: number): (typeof all)[number] => {
    if (size > 0 && size + bytes > maxBytes) {
      all.push({ pods: [], containers: [] });
      size = 0;
    }
    size += bytes;
    return all[all.length - 1] as (typeof all)[number];
  };
  for (const pod of pods) place(toBinary(PodSandboxSchema, pod).length).pods.push(pod);
  for (const container of containers) place(toBinary(ContainerSchema, container).length).containers.push(container);
  return all;
}
