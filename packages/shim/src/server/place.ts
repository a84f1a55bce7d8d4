/** Where a shim's socket and its containers' monitors are: short paths, for a socket's has at most 107 bytes. */
import { createHash } from "node:crypto";
import { join } from "node:path";

/** Undefined: containerd's. Another is for tests, and for the warm-up of a bundle. */
export const ownState = process.env["BERTH_SHIM_STATE"];
const BASE = ownState ?? "/run/containerd";
const SOCKETS = join(BASE, "s");
const STATE = join(BASE, "berth");
const SHORT = 20;

const digest = (...parts: readonly string[]): string => createHash("sha256").update(parts.join("\0")).digest("hex");

/** Of the shim of a group of containers of one containerd. */
export const socketPath = (address: string, namespace: string, group: string): string =>
  join(SOCKETS, digest("berth", address, namespace, group));

/** Of one container: known to `delete` too, which is told nothing of groups. */
export const stateDir = (address: string, namespace: string, id: string): string =>
  join(STATE, digest(address, namespace, id).slice(0, SHORT));

/** Of bosun serve. */
export const handDir = (socket: string): string => join(STATE, `hand-${digest(socket).slice(0, SHORT)}`);

/** Of virtual machines: sockets are in there too. */
export const machinesDirectory = join(STATE, "vm");
export const machineId = (socket: string): string => digest(socket).slice(0, SHORT);

export const bosun = process.env["BERTH_BOSUN"] ?? join(import.meta.dirname, "../../../../.build/native/bosun");
