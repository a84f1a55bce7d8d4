/** Users, capabilities, profiles and namespaces of `berth run`. */
import { resolve } from "node:path";
import type { MessageInitShape } from "@bufbuild/protobuf";
import { cri } from "@berth/spec";
import { Failure, refused } from "../failure.ts";

export interface SecurityFlags {
  readonly user?: string;
  readonly groupAdd: readonly string[];
  readonly privileged?: boolean;
  readonly capAdd: readonly string[];
  readonly capDrop: readonly string[];
  readonly readOnly?: boolean;
  readonly securityOpt: readonly string[];
  readonly network?: string;
  readonly pid?: string;
  readonly ipc?: string;
}

type ContainerSecurity = MessageInitShape<typeof cri.LinuxContainerSecurityContextSchema>;
type PodSecurity = MessageInitShape<typeof cri.LinuxSandboxSecurityContextSchema>;
type Profile = MessageInitShape<typeof cri.SecurityProfileSchema>;

const { RuntimeDefault, Unconfined, Localhost } = cri.SecurityProfile_ProfileType;
const { NamespaceMode } = cri;

/** What the kubelet asks for with procMount: Default; the CRI has no default of its own. */
const MASKED_PATHS = [
  "/proc/asound",
  "/proc/acpi",
  "/proc/interrupts",
  "/proc/kcore",
  "/proc/keys",
  "/proc/latency_stats",
  "/proc/timer_list",
  "/proc/timer_stats",
  "/proc/sched_debug",
  "/proc/scsi",
  "/sys/firmware",
  "/sys/devices/virtual/powercap",
];
const READONLY_PATHS = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

export function containerSecurity(flags: SecurityFlags, cwd: string): ContainerSecurity {
  const privileged = flags.privileged === true;
  return {
    privileged,
    namespaceOptions: namespaceOptions(flags),
    readonlyRootfs: flags.readOnly === true,
    capabilities: { addCapabilities: [...flags.capAdd], dropCapabilities: [...flags.capDrop] },
    supplementalGroups: flags.groupAdd.map((group) => numericGroup(group, "--group-add")),
    ...userOf(flags.user),
    ...profiles(flags.securityOpt, privileged, cwd),
    ...(!privileged && { maskedPaths: MASKED_PATHS, readonlyPaths: READONLY_PATHS }),
  };
}

export const podSecurity = (flags: SecurityFlags): PodSecurity => ({
  privileged: flags.privileged === true,
  namespaceOptions: namespaceOptions(flags),
  seccomp: { profileType: flags.privileged ? Unconfined : RuntimeDefault },
});

function namespaceOptions({ network, pid, ipc }: SecurityFlags): MessageInitShape<typeof cri.NamespaceOptionSchema> {
  return { network: networkMode(network ?? "default"), pid: pidMode(pid ?? ""), ipc: ipcMode(ipc ?? "") };
}

function networkMode(text: string): cri.NamespaceMode {
  if (text === "host") return NamespaceMode.NODE;
  if (text === "default" || text === "bridge") return NamespaceMode.POD;
  if (text === "none") throw refused("--network none", "the CRI has no pod without a network");
  throw refused(`--network ${text}`, "a pod's network is what /etc/cni/net.d says; use default or host");
}

function pidMode(text: string): cri.NamespaceMode {
  if (text === "host") return NamespaceMode.NODE;
  if (text === "" || text === "private") return NamespaceMode.CONTAINER;
  throw refused(`--pid ${text}`, "use host, or leave it out for a PID namespace of the container's own");
}

function ipcMode(text: string): cri.NamespaceMode {
  if (text === "host") return NamespaceMode.NODE;
  if (text === "" || text === "private" || text === "shareable") return NamespaceMode.POD;
  throw refused(`--ipc ${text}`, "use host, or leave it out for an IPC namespace of the container's own");
}

const ID_MAX = 4294967294n;

function userOf(text: string | undefined): Pick<ContainerSecurity, "runAsUser" | "runAsGroup" | "runAsUsername"> {
  if (text === undefined) return {};
  const [user = "", group, ...more] = text.split(":");
  if (user === "" || group === "" || more.length > 0)
    throw new Failure(`-u "${text}": use a user's name or number, and optionally :group-number`);
  return {
    ...(/^\d+$/.test(user) ? { runAsUser: { value: checkedId(user, "-u") } } : { runAsUsername: user }),
    ...(group !== undefined && { runAsGroup: { value: numericGroup(group, "-u") } }),
  };
}

function numericGroup(text: string, option: string): bigint {
  if (!/^\d+$/.test(text))
    throw new Failure(`${option}: "${text}" is not a group's number: the CRI takes no group names`);
  return checkedId(text, option);
}

function checkedId(text: string, option: string): bigint {
  const id = BigInt(text);
  if (id > ID_MAX) throw new Failure(`${option}: ${text} is not an id (0 to ${ID_MAX})`);
  return id;
}

function profiles(
  options: readonly string[],
  privileged: boolean,
  cwd: string,
): Pick<ContainerSecurity, "seccomp" | "apparmor" | "noNewPrivs"> {
  const chosen: { seccomp: Profile; apparmor?: Profile; noNewPrivs?: boolean } = {
    seccomp: { profileType: privileged ? Unconfined : RuntimeDefault },
  };
  for (const option of options) {
    // docker takes both separators.
    const [, key = "", value = ""] = /^([a-z-]+)(?:[=:](.*))?$/.exec(option) ?? [];
    if (key === "seccomp" && value !== "") chosen.seccomp = profile(value, (path) => resolve(cwd, path));
    else if (key === "apparmor" && value !== "") chosen.apparmor = profile(value, (name) => name);
    else if (key === "no-new-privileges" && ["", "true", "false"].includes(value))
      chosen.noNewPrivs = value !== "false";
    else if (key === "label")
      throw refused(`--security-opt ${option}`, "SELinux labels of containers are the kubelet's business");
    else
      throw new Failure(
        `--security-opt "${option}": use seccomp=unconfined, seccomp=FILE, apparmor=unconfined, apparmor=PROFILE or no-new-privileges`,
      );
  }
  return chosen;
}

function profile(value: string, reference: (value: string) => string): Profile {
  if (value === "unconfined") return { profileType: Unconfined };
  if (value === "builtin" || value === "runtime/default") return { profileType: RuntimeDefault };
  return { profileType: Localhost, localhostRef: reference(value) };
}
