/** containerd-shim-berth-v2's own part: containers of this host. */
import { rm } from "node:fs/promises";
import { join } from "node:path";
import { killCgroup, monitorEnded, systemdPlace } from "@berth/kernel";
import { cgroupRemoval, features, readBundle } from "@berth/runtime";
import type { Invocation } from "./arguments.ts";
import type { Machine } from "./making.ts";
import { optionsOf } from "./options.ts";
import { ownMaker } from "./own.ts";
import { stateDir } from "./place.ts";
import { unmountRootfs } from "./rootfs.ts";
import type { Parts } from "./serve.ts";

export const ownParts: Parts = {
  open: (machine, _invocation, options) => Promise.resolve(ownMaker(machine, optionsOf(options))),
  features,
  deleteLeft,
};

async function deleteLeft(
  { hand, host }: Pick<Machine, "hand" | "host">,
  { address, namespace, id, bundle }: Invocation,
): Promise<void> {
  const cgroup = cgroupOf(bundle, id);
  if (cgroup !== undefined) {
    await killCgroup(cgroup, host);
    const dir = stateDir(address, namespace, id);
    await monitorEnded(dir);
    await hand.run(cgroupRemoval(cgroup, host));
    await rm(dir, { recursive: true, force: true });
  }
  await unmountRootfs(hand, bundle);
}

/** Undefined: there was no container. "slice:prefix:name" is a scope of systemd's, which goes with its last process. */
function cgroupOf(bundle: string, id: string): string | undefined {
  try {
    const path = readBundle(bundle).spec.linux?.cgroupsPath;
    return path?.includes(":") ? systemdPlace(path, id).path : path;
  } catch (error) {
    if (/does not exist/.test((error as Error).message)) return undefined;
    throw new Error(`${join(bundle, "config.json")}: ${(error as Error).message}`, { cause: error });
  }
}
