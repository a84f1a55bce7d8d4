/** Which namespaces a container joins, and which it gets of its own. */
import { cri, type oci } from "@berth/spec";
import type { CriContext } from "../context.ts";
import { invalid, precondition } from "../errors.ts";
import { ipcPath, netnsPath, podNamespaces, usernsPath, utsPath } from "../sandbox/namespaces.ts";
import type { Sandbox } from "../store/records.ts";

const { NamespaceMode } = cri;

export function namespacesOf(context: CriContext, sandbox: Sandbox, config: cri.ContainerConfig): oci.LinuxNamespace[] {
  const { id } = sandbox.record;
  const pod = podNamespaces(sandbox.record.config);
  const security = config.linux?.securityContext;
  const namespaces: oci.LinuxNamespace[] = [{ type: "mount" }];
  if (!pod.hostNetwork) {
    namespaces.push({ type: "network", path: netnsPath(context, id) }, { type: "uts", path: utsPath(context, id) });
  }
  if (!pod.hostIpc) namespaces.push({ type: "ipc", path: ipcPath(context, id) });
  const pid = pidNamespace(context, sandbox, security?.namespaceOptions);
  if (pid) namespaces.push(pid);
  if (pod.userns) namespaces.push({ type: "user", path: usernsPath(context, id) });
  if (!security?.privileged) namespaces.push({ type: "cgroup" });
  return namespaces;
}

/** Whether the container shares the pod's PID namespace, which is the CRI's default. */
export const sharesPodPid = (config: cri.ContainerConfig): boolean =>
  (config.linux?.securityContext?.namespaceOptions?.pid ?? NamespaceMode.POD) === NamespaceMode.POD;

/** undefined: the host's. */
function pidNamespace(
  context: CriContext,
  sandbox: Sandbox,
  options: cri.NamespaceOption | undefined,
): oci.LinuxNamespace | undefined {
  const mode = options?.pid ?? NamespaceMode.POD;
  switch (mode) {
    case NamespaceMode.NODE:
      return undefined;
    case NamespaceMode.CONTAINER:
      return { type: "pid" };
    case NamespaceMode.POD:
      if (!sandbox.init) throw precondition(`pod "${sandbox.record.id}" has no init for its PID namespace`);
      return { type: "pid", path: `/proc/${sandbox.init.pid}/ns/pid` };
    case NamespaceMode.TARGET:
      return { type: "pid", path: `/proc/${targetPid(context, sandbox, options?.targetId ?? "")}/ns/pid` };
    default:
      throw invalid(`linux.security_context.namespace_options.pid: ${String(mode)} is not a namespace mode`);
  }
}

function targetPid(context: CriContext, sandbox: Sandbox, targetId: string): number {
  const target = context.containers.get(targetId);
  const field = "linux.security_context.namespace_options.target_id";
  if (target.record.sandboxId !== sandbox.record.id)
    throw invalid(`${field}: container "${targetId}" is not in pod "${sandbox.record.id}"`);
  if (target.record.phase !== "running") throw precondition(`${field}: container "${targetId}" is not running`);
  return target.record.pid;
}
