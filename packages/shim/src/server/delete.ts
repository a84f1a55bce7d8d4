/** `containerd-shim-berth-v2 delete`: what a shim that has died left of a container. Idempotent. */
import { rm } from "node:fs/promises";
import { join } from "node:path";
import { create, toBinary } from "@bufbuild/protobuf";
import { type Hand, killCgroup, monitorEnded, type HostFacts } from "@berth/kernel";
import { cgroupRemoval, readBundle } from "@berth/runtime";
import { task } from "@berth/spec/shim";
import type { Invocation } from "./arguments.ts";
import { stateDir } from "./place.ts";
import { now, timestamp } from "./publisher.ts";
import { unmountRootfs } from "./rootfs.ts";

/** Of a process whose end nobody saw, as containerd reports it. */
const KILLED = 137;

/** An encoded DeleteResponse, for standard output. */
export async function deleteLeft(
  { hand, host }: { readonly hand: Hand; readonly host: HostFacts },
  { address, namespace, id, bundle }: Invocation,
): Promise<Uint8Array> {
  const cgroup = cgroupOf(bundle);
  if (cgroup !== undefined) {
    await killCgroup(cgroup, host);
    const dir = stateDir(address, namespace, id);
    await monitorEnded(dir);
    await hand.run(cgroupRemoval(cgroup, host));
    await rm(dir, { recursive: true, force: true });
  }
  await unmountRootfs(hand, bundle);
  const response = create(task.DeleteResponseSchema, { exitStatus: KILLED, exitedAt: timestamp(now()) });
  return toBinary(task.DeleteResponseSchema, response);
}

/** Undefined: there was no container. One of systemd's is gone with its last process, and its name is no path. */
function cgroupOf(bundle: string): string | undefined {
  try {
    const path = readBundle(bundle).spec.linux?.cgroupsPath;
    return path?.includes(":") ? undefined : path;
  } catch (error) {
    if (/does not exist/.test((error as Error).message)) return undefined;
    throw new Error(`${join(bundle, "config.json")}: ${(error as Error).message}`, { cause: error });
  }
}
