/** CreateContainer with what belongs to it, for `create` and `run`. */
import type { cri } from "@berth/spec";
import type { Context, Runtime } from "./command.ts";
import { CrictlError, EMPTY_ID } from "./errors.ts";
import { loadContainer } from "./load.ts";
import { pullImage } from "./pulling.ts";

export interface Making {
  readonly podSandboxId: string;
  readonly configPath: string;
  readonly sandboxConfig: cri.PodSandboxConfig;
  readonly withPull: boolean;
}

export async function createContainer(context: Context, runtime: Runtime, making: Making): Promise<string> {
  const { podSandboxId, configPath, sandboxConfig, withPull } = making;
  const config = loadContainer(configPath);
  const { image } = config;
  if (!image) throw new CrictlError("image is not set");
  image.userSpecifiedImage ||= image.image;
  if (withPull) {
    context.log("info", `Pulling container image: ${image.image}`);
    const wanted = [image.image];
    for (const mount of config.mounts) {
      if (!mount.image?.image) continue;
      context.log("info", `Pulling image ${mount.image.image} to be mounted to container path: ${mount.containerPath}`);
      wanted.push(mount.image.image);
    }
    const images = await context.images();
    for (const each of wanted)
      await pullImage(context, images, { image: each, annotations: image.annotations, sandboxConfig });
  }
  return (await runtime.createContainer({ podSandboxId, config, sandboxConfig })).containerId;
}

export async function startContainer(context: Context, runtime: Runtime, containerId: string): Promise<void> {
  if (containerId === "") throw new CrictlError(EMPTY_ID);
  await runtime.startContainer({ containerId });
  context.print(containerId);
}

export async function stopContainer(
  context: Context,
  runtime: Runtime,
  containerId: string,
  timeout: bigint,
): Promise<void> {
  if (containerId === "") throw new CrictlError(EMPTY_ID);
  await runtime.stopContainer({ containerId, timeout });
  context.print(containerId);
}

export async function stopPod(context: Context, runtime: Runtime, podSandboxId: string): Promise<void> {
  if (podSandboxId === "") throw new CrictlError(EMPTY_ID);
  await runtime.stopPodSandbox({ podSandboxId });
  context.print(`Stopped sandbox ${podSandboxId}`);
}

/** The ids given, or all there are; undefined: nothing to do, which has been said. */
export async function idsOf(
  context: Context,
  kind: string,
  list: () => Promise<readonly { id: string }[]>,
): Promise<readonly string[] | undefined> {
  const all = context.flags.bool("all");
  const ids = all ? (await list()).map(({ id }) => id) : context.flags.args;
  if (ids.length > 0) return ids;
  if (all) context.log("info", `No ${kind}s to remove`);
  else context.help();
  return undefined;
}
