/** Makes what `berth run` and `berth create` ask for: image, pod, container; undone if it cannot be finished. */
import { randomBytes } from "node:crypto";
import { rm } from "node:fs/promises";
import { CODE, failedWith } from "../call-error.ts";
import type { Client } from "../client.ts";
import { Failure } from "../failure.ts";
import { storedCredentials } from "../registry/credentials.ts";
import { pullDisplay } from "../pull/progress.ts";
import { pullImage } from "../pull/pull.ts";
import { removePod } from "../remove.ts";
import type { Shell } from "../shell.ts";
import type { CreateFlags } from "./flags.ts";
import type { RunImage, RunRequest } from "./request.ts";

export interface Made {
  readonly name: string;
  readonly containerId: string;
  /** Takes back pod, container and log. */
  remove(): Promise<void>;
}

export async function make(
  client: Client,
  shell: Shell,
  request: RunRequest,
  pull: CreateFlags["pull"],
  signal: AbortSignal,
): Promise<Made> {
  const [{ logRoot }, image] = await Promise.all([
    client.berth.info({}, { signal }),
    ensureImage(client, shell, request.image, pull, signal),
  ]);
  const logDirectory = `${logRoot}/${request.name}_${randomBytes(4).toString("hex")}`;
  const config = request.pod(logDirectory);
  const podSandboxId = await runPod(client, config, request, signal);
  const remove = async (): Promise<void> => {
    await removePod(client, podSandboxId);
    await rm(logDirectory, { recursive: true, force: true });
  };
  try {
    const { containerId } = await client.runtime.createContainer(
      { podSandboxId, config: request.container(image), sandboxConfig: config },
      { signal },
    );
    return { name: request.name, containerId, remove };
  } catch (error) {
    await undo(remove, error);
    throw error;
  }
}

/** Runs `remove`; a failure of that is told together with `cause`, which is why it ran. */
export async function undo(remove: () => Promise<void>, cause: unknown): Promise<void> {
  try {
    await remove();
  } catch (error) {
    throw new Failure(
      `${(cause as Error).message}; and it could not be cleaned up: ${(error as Error).message}`,
      undefined,
      { cause },
    );
  }
}

async function runPod(
  client: Client,
  config: ReturnType<RunRequest["pod"]>,
  request: RunRequest,
  signal: AbortSignal,
): Promise<string> {
  try {
    const { podSandboxId } = await client.runtime.runPodSandbox(
      { config, runtimeHandler: request.handler },
      { signal },
    );
    return podSandboxId;
  } catch (error) {
    if (failedWith(error, CODE.alreadyExists)) {
      throw new Failure(
        `the name "${request.name}" is taken: remove that container (berth rm ${request.name}), or choose another --name`,
        undefined,
        { cause: error },
      );
    }
    throw error;
  }
}

async function ensureImage(
  client: Client,
  shell: Shell,
  reference: string,
  pull: CreateFlags["pull"],
  signal: AbortSignal,
): Promise<RunImage> {
  // An archive of a checkpoint, on berthd's machine: it says itself which image it needs.
  if (reference.startsWith("/")) return { id: reference, entrypoint: [], cmd: [] };
  const present = pull === "always" ? undefined : await describe(client, reference, signal);
  if (present) return present;
  if (pull === "never")
    throw new Failure(`image "${reference}" is not here, and --pull never forbids to pull it; see berth images`);
  if (pull === "missing") shell.stderr.write(`image ${reference} is not here yet: pulling it\n`);
  const { id } = await pullImage(
    client,
    reference,
    await storedCredentials(reference, shell),
    pullDisplay(shell.stderr),
    signal,
  );
  const pulled = await describe(client, id, signal);
  if (!pulled) throw new Failure(`image "${reference}" was removed while it was pulled; try again`);
  return pulled;
}

interface ImageInfo {
  readonly imageSpec?: {
    readonly config?: { readonly Entrypoint?: readonly string[] | null; readonly Cmd?: readonly string[] | null };
  };
}

async function describe(client: Client, reference: string, signal: AbortSignal): Promise<RunImage | undefined> {
  const { image, info } = await client.images.imageStatus({ image: { image: reference }, verbose: true }, { signal });
  if (!image) return undefined;
  const { imageSpec } = JSON.parse(info["info"] ?? "{}") as ImageInfo;
  return { id: image.id, entrypoint: imageSpec?.config?.Entrypoint ?? [], cmd: imageSpec?.config?.Cmd ?? [] };
}
