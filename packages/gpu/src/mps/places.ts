/** Where MPS control daemons keep what clients and the device plugin look for: the same below the host's directory and a container's. */
import { join } from "node:path";

export interface Places {
  readonly pipes: string;
  readonly logs: string;
  /** There while the resource's daemon runs with its limits set. */
  readonly started: string;
}

/** `root`: "/mps" in containers. `resource`: "nvidia.com/gpu". */
export const placesOf = (root: string, resource: string): Places => ({
  pipes: join(root, resource, "pipe"),
  logs: join(root, resource, "log"),
  started: join(root, resource, ".started"),
});

/** What clients have as /dev/shm; the same for all resources. */
export const sharedMemory = (root: string): string => join(root, "shm");

/** There while the daemons of all resources run. */
export const readyFile = (root: string): string => join(root, ".ready");
