/** Waits for the end of a container. */
import { setTimeout as sleep } from "node:timers/promises";
import { cri } from "@berth/spec";
import { CODE, DaemonUnreachable, failedWith } from "./call-error.ts";
import type { Client } from "./client.ts";
import { Failure } from "./failure.ts";

const { CONTAINER_EXITED, CONTAINER_UNKNOWN } = cri.ContainerState;

/** Milliseconds between two looks: the first ones follow quickly, as most callers know that the end is near. */
const FIRST_LOOK = 4;
const SLOWEST_LOOK = 500;
/** How long berthd may be away, as for its own restart, before waiting is given up; milliseconds. */
const PATIENCE = 60_000;

/** The container was removed while it was waited for. */
export class ContainerGone extends Failure {}

/** The final status. Survives a restart of berthd. Throws ContainerGone for a container that is removed meanwhile. */
export async function waitForExit(
  client: Client,
  containerId: string,
  signal?: AbortSignal,
): Promise<cri.ContainerStatus> {
  let goneSince: number | undefined;
  for (let pause = FIRST_LOOK; ; pause = Math.min(pause * 1.5, SLOWEST_LOOK)) {
    try {
      const { status } = await client.runtime.containerStatus({ containerId }, { signal });
      goneSince = undefined;
      if (status && hasEnded(status)) return status;
    } catch (error) {
      if (failedWith(error, CODE.notFound))
        throw new ContainerGone(`container ${containerId} was removed before its exit code could be read`, undefined, {
          cause: error,
        });
      if (!isAway(error)) throw error;
      goneSince ??= Date.now();
      if (Date.now() - goneSince > PATIENCE) throw error;
    }
    await sleep(pause, undefined, { signal });
  }
}

/** "Unknown" is also what a container is while it is being made. */
const hasEnded = ({ state, finishedAt }: cri.ContainerStatus): boolean =>
  state === CONTAINER_EXITED || (state === CONTAINER_UNKNOWN && finishedAt > 0n);

const isAway = (error: unknown): boolean => error instanceof DaemonUnreachable || failedWith(error, CODE.unavailable);
