/** Where a pod's management socket is, in Kata's layout; and sockets whose paths are longer than sockaddr_un takes. */
import { existsSync } from "node:fs";
import { type FileHandle, open } from "node:fs/promises";
import { join } from "node:path";
import { VmError } from "../errors.ts";
import { namesIn } from "../names-in.ts";

/** Of Kata's runtime in Go, and of the one in Rust. */
export const KATA_DIRECTORIES = ["/run/vc/sbs", "/run/kata"] as const;
/** Of berthd. */
export const DEFAULT_STATE = "/run/berth";

/** Where berthd with this state directory has them. */
export const sandboxesOf = (state: string): string => (state === DEFAULT_STATE ? KATA_DIRECTORIES[0] : `${state}/sbs`);

export const MONITOR_SOCKET = "shim-monitor.sock";
/** Hybrid vsock: what agent-url names. */
export const AGENT_SOCKET = "agent.sock";

/** As containerd's identifiers are: kata-runtime takes no others. */
const IDENTIFIER = /^[a-zA-Z0-9][a-zA-Z0-9_.-]+$/;

/** The directory of a pod's sockets; its id may be shortened as long as it is the only one. Throws VmError. */
export async function findSandbox(id: string | undefined, directories: readonly string[]): Promise<string> {
  if (id === undefined || id === "")
    throw new VmError("InvalidArgument", "invalid container/sandbox ID: it is missing");
  if (!IDENTIFIER.test(id)) throw new VmError("InvalidArgument", `invalid container/sandbox ID "${id}"`);
  const all = (await Promise.all(directories.map(listSandboxes))).flat();
  const exact = all.filter((directory) => directory.endsWith(`/${id}`));
  const found = exact.length > 0 ? exact : all.filter((directory) => directory.includes(`/${id}`));
  const [only, other] = found;
  if (only === undefined)
    throw new VmError("Missing", `no virtual machine runs for pod ${id}; looked in ${directories.join(", ")}`);
  if (other !== undefined) throw new VmError("InvalidArgument", `"${id}" is the beginning of several pods' ids`);
  return only;
}

/** Directories of pods whose management answers; none where there is no such directory. */
export async function listSandboxes(directory: string): Promise<string[]> {
  const names = await namesIn(directory);
  return names.map((name) => join(directory, name)).filter((path) => existsSync(join(path, MONITOR_SOCKET)));
}

/** sun_path, with the NUL behind it (unix(7)). */
const LONGEST = 107;

/** `work` gets a path for bind(2) or connect(2) that names the socket, however long its own is. */
export async function withSocketPath<T>(
  directory: string,
  name: string,
  work: (path: string) => Promise<T>,
): Promise<T> {
  const path = join(directory, name);
  if (Buffer.byteLength(path) <= LONGEST) return await work(path);
  const handle: FileHandle = await open(directory);
  try {
    return await work(`/proc/self/fd/${handle.fd}/${name}`);
  } finally {
    await handle.close();
  }
}
