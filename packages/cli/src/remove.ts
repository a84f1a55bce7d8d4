/** Removes containers and, for those that `berth run` made, their pods and logs: nobody else does. */
import { rm } from "node:fs/promises";
import { basename, dirname } from "node:path";
import { cri } from "@berth/spec";
import { CODE, failedWith } from "./call-error.ts";
import type { Client } from "./client.ts";
import { Failure } from "./failure.ts";
import { containerName, isRunMade } from "./names.ts";
import { LOG_PATH } from "./run/request.ts";

const { CONTAINER_RUNNING } = cri.ContainerState;

/** Safe to repeat after a failure. A running container is ended at once with `force`, and a Failure without. */
export async function removeContainer(
  client: Client,
  container: cri.Container,
  { force }: { readonly force: boolean },
): Promise<void> {
  const name = containerName(container);
  if (container.state === CONTAINER_RUNNING) {
    if (!force)
      throw new Failure(`container ${name} is running: stop it first (berth stop ${name}), or use berth rm -f`);
    await client.runtime.stopContainer({ containerId: container.id, timeout: 0n });
  }
  const logPath = isRunMade(container) ? await logPathOf(client, container.id) : undefined;
  await client.runtime.removeContainer({ containerId: container.id });
  if (!isRunMade(container)) return;
  await removePod(client, container.podSandboxId);
  if (logPath !== undefined) await removeLogs(logPath, name);
}

/** With all that is inside. */
export async function removePod(client: Client, podSandboxId: string): Promise<void> {
  await client.runtime.stopPodSandbox({ podSandboxId });
  await client.runtime.removePodSandbox({ podSandboxId });
}

async function logPathOf(client: Client, containerId: string): Promise<string | undefined> {
  try {
    const { status } = await client.runtime.containerStatus({ containerId });
    return status?.logPath || undefined;
  } catch (error) {
    // Somebody else was quicker, as berthd is for `run -d --rm`.
    if (failedWith(error, CODE.notFound)) return undefined;
    throw error;
  }
}

/** Only a directory that `logDirectory` named is removed. */
async function removeLogs(logPath: string, name: string): Promise<void> {
  const directory = dirname(logPath);
  if (basename(logPath) !== LOG_PATH || !isLogDirectory(basename(directory), name)) return;
  await rm(directory, { recursive: true, force: true });
}

const isLogDirectory = (base: string, name: string): boolean =>
  base.startsWith(`${name}_`) && /^[0-9a-f]{8}$/.test(base.slice(name.length + 1));
