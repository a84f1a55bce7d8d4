/** GPUs that containers share by MPS, as the device plugin sees it: the control daemons are other processes'. */
import { existsSync } from "node:fs";
import { dirname } from "node:path";
import { problemOfMps } from "../../mps/control.ts";
import { placesOf, sharedMemory } from "../../mps/places.ts";
import type { Allocation } from "../offer.ts";
import type { Gpu } from "./inventory.ts";
import type { Flags, NvidiaSettings } from "./settings.ts";

type Roots = Pick<Flags, "mpsRoot" | "mpsContainerRoot">;

/** undefined: the resource's daemon answers, and has set its limits; else why it cannot be used. */
export async function mpsProblem(resource: string, { mpsContainerRoot }: Roots): Promise<string | undefined> {
  const places = placesOf(mpsContainerRoot, resource);
  // Its daemon answers before it has its limits: whoever came then would have none.
  if (!existsSync(places.started)) return `its MPS control daemon has not started: there is no ${places.started}`;
  return await problemOfMps(places);
}

/** Throws Error where some of the devices cannot be shared by MPS. */
export function assertMpsCan(gpus: readonly Gpu[], { sharing }: NvidiaSettings): void {
  if (sharing?.strategy === "mps" && gpus.some(({ parent }) => parent !== undefined))
    throw new Error("sharing using MPS is not supported for MIG devices");
}

/** Where a daemon that starts is seen. */
export const mpsDirectory = (resource: string, { mpsContainerRoot }: Roots): string =>
  dirname(placesOf(mpsContainerRoot, resource).started);

/** What a client needs to find the daemon: its pipes, and the shared memory of all of them. */
export function mpsAllocation(
  resource: string,
  { mpsRoot = "", mpsContainerRoot }: Roots,
): Required<Pick<Allocation, "envs" | "mounts">> {
  const { pipes } = placesOf(mpsContainerRoot, resource);
  return {
    envs: { CUDA_MPS_PIPE_DIRECTORY: pipes },
    mounts: [
      { containerPath: pipes, hostPath: placesOf(mpsRoot, resource).pipes, readOnly: false },
      { containerPath: "/dev/shm", hostPath: sharedMemory(mpsRoot), readOnly: false },
    ],
  };
}
