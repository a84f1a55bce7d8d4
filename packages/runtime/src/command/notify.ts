/** NOTIFY_SOCKET (sd_notify(3)): the container gets a socket of its own, and what it says there is handed on by bosun. */
import { existsSync, mkdirSync } from "node:fs";
import { join } from "node:path";
import type { Front } from "@berth/kernel";
import type { oci } from "@berth/spec";
import type { StateDirectory } from "../state/record.ts";

const DIRECTORY = "notify";
const SOCKET = "notify.sock";
/** In the container. */
const MOUNTED = "/run/notify";

function hostSocket(): string | undefined {
  return process.env.NOTIFY_SOCKET || undefined;
}

/** The configuration with the socket's directory and its name, where the caller awaits an announcement. */
export function withNotifySocket(spec: oci.Spec, states: StateDirectory, id: string): oci.Spec {
  if (hostSocket() === undefined || spec.process === undefined) return spec;
  const mount: oci.Mount = {
    destination: MOUNTED,
    source: join(states.path(id), DIRECTORY),
    options: ["bind", "nosuid", "noexec", "nodev", "ro"],
  };
  const env = [...(spec.process.env ?? []), `NOTIFY_SOCKET=${MOUNTED}/${SOCKET}`];
  return { ...spec, mounts: [...(spec.mounts ?? []), mount], process: { ...spec.process, env } };
}

export function makeNotifyDirectory(states: StateDirectory, id: string): void {
  if (hostSocket() !== undefined) mkdirSync(join(states.path(id), DIRECTORY), { mode: 0o755 });
}

/** Before the program runs. `pid`: as for `Front.notify`. A container that was made without a socket has nothing to say. */
export function awaitAnnouncement(states: StateDirectory, id: string, front: Front, pid: number | undefined): void {
  const host = hostSocket();
  const directory = join(states.path(id), DIRECTORY);
  if (host !== undefined && existsSync(directory)) front.notify({ socket: join(directory, SOCKET), host, pid });
}
