/** Where berthd listens. */
import { Failure } from "./failure.ts";

export const DEFAULT_ADDRESS = "/run/berth/berth.sock";

/** The socket's absolute path; `text` may have the "unix://" that the kubelet and crictl write. */
export function socketPath(text: string): string {
  const path = text.startsWith("unix:") ? text.slice("unix:".length).replace(/^\/\//, "") : text;
  if (!path.startsWith("/"))
    throw new Failure(`address "${text}" is not a unix socket: give an absolute path, as in ${DEFAULT_ADDRESS}`);
  return path;
}

/** --address, else BERTH_ADDRESS, else CONTAINER_RUNTIME_ENDPOINT (crictl's), else the default. */
export function chosenAddress(option: string | undefined, env: Readonly<Record<string, string | undefined>>): string {
  return socketPath(option || env["BERTH_ADDRESS"] || env["CONTAINER_RUNTIME_ENDPOINT"] || DEFAULT_ADDRESS);
}
