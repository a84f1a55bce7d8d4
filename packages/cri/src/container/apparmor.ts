/** Which AppArmor profile a container gets; on a node without AppArmor what needs one is refused, and the rest runs without. */
import { existsSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { cri } from "@berth/spec";
import type { CriContext } from "../context.ts";
import { invalid, precondition } from "../errors.ts";

const { RuntimeDefault, Unconfined, Localhost } = cri.SecurityProfile_ProfileType;

const LOADED = "/sys/kernel/security/apparmor/profiles";
/** containerd's name for it, so that what looks for the name on a node finds it. */
const DEFAULT = "cri-containerd.apparmor.d";
const PARSERS = ["/sbin/apparmor_parser", "/usr/sbin/apparmor_parser"];
const FIELD = "linux.security_context.apparmor";

/** Containers may do what their capabilities allow, but not change the kernel, and not reach processes of other profiles. */
const DEFAULT_PROFILE = `#include <tunables/global>
profile ${DEFAULT} flags=(attach_disconnected,mediate_deleted) {
  #include <abstractions/base>
  capability,
  file,
  network,
  umount,
  deny mount,
  signal (receive) peer=unconfined,
  signal (receive) peer={runc,crun},
  signal (send, receive) peer=${DEFAULT},
  ptrace (trace, read, tracedby, readby) peer=${DEFAULT},
  deny @{PROC}/kcore rwklx,
  deny @{PROC}/mem rwklx,
  deny @{PROC}/kmem rwklx,
  deny @{PROC}/sysrq-trigger rwklx,
  deny @{PROC}/sys/kernel/{core_pattern,modprobe,hotplug,poweroff_cmd} wklx,
  deny @{PROC}/sys/vm/** wklx,
  deny /sys/{block,bus,class,dev,devices,firmware,hypervisor,module,power}/** wklx,
  deny /sys/firmware/{efi,acpi}/** rwklx,
  deny /sys/kernel/** wklx,
  deny /sys/kernel/security/** rwklx,
  deny /sys/devices/virtual/powercap/** rwklx,
}
`;

type Asked = Pick<cri.LinuxContainerSecurityContext, "apparmor" | "apparmorProfile" | "privileged">;

/** undefined: unconfined. A container that asks for nothing gets the default, unless it is privileged. */
export async function apparmorOf(context: CriContext, security: Asked | undefined): Promise<string | undefined> {
  const asked = security?.apparmor ?? fromText(security?.apparmorProfile ?? "");
  if (asked?.profileType === Localhost) return await localProfile(context, asked.localhostRef);
  if (asked?.profileType === Unconfined || !isOn(context) || security?.privileged) return undefined;
  if (!(await isLoaded(DEFAULT))) {
    const parser = PARSERS.find(existsSync);
    if (parser === undefined && asked === undefined) return withoutParser(context);
    await loadDefault(context, parser);
  }
  return DEFAULT;
}

let hasWarned = false;

/** A kernel that could, on a node where nothing was installed for it: as with containerd, who asks for nothing gets nothing. */
function withoutParser({ log }: CriContext): undefined {
  if (!hasWarned)
    log.warn(
      {},
      "containers run without an AppArmor profile: there is no apparmor_parser; install the package apparmor",
    );
  hasWarned = true;
}

const isOn = ({ host, config }: CriContext): boolean => host.apparmor && !config.disableApparmor;

/** The deprecated form: "", "runtime/default", "unconfined", "localhost/NAME". */
function fromText(text: string): Pick<cri.SecurityProfile, "profileType" | "localhostRef"> | undefined {
  if (text === "") return undefined;
  if (text === "runtime/default") return { profileType: RuntimeDefault, localhostRef: "" };
  if (text === "unconfined") return { profileType: Unconfined, localhostRef: "" };
  if (text.startsWith("localhost/")) return { profileType: Localhost, localhostRef: text };
  throw invalid(`${FIELD}_profile: "${text}" is none of runtime/default, unconfined, localhost/NAME`);
}

async function localProfile(context: CriContext, ref: string): Promise<string> {
  const name = ref.replace(/^localhost\//, "");
  if (name === "") throw invalid(`${FIELD}.localhost_ref: must name a profile`);
  if (!isOn(context))
    throw precondition(`${FIELD}: "${name}" cannot be enforced: AppArmor is not enabled on this node`);
  if (!(await isLoaded(name))) throw invalid(`${FIELD}.localhost_ref: no profile "${name}" is loaded on this node`);
  return name;
}

/** Lines of "NAME (MODE)". */
async function isLoaded(name: string): Promise<boolean> {
  return (await readFile(LOADED, "utf8")).split("\n").some((line) => line.startsWith(`${name} (`));
}

async function loadDefault({ hand }: CriContext, parser: string | undefined): Promise<void> {
  if (parser === undefined)
    throw precondition(`${FIELD}: the default profile cannot be loaded: there is no apparmor_parser; install apparmor`);
  const { status, stderr } = await hand.spawn({
    argv: [parser, "-Kr"],
    env: { PATH: "/usr/sbin:/usr/bin:/sbin:/bin" },
    stdin: Buffer.from(DEFAULT_PROFILE),
  });
  if (status !== 0)
    throw precondition(
      `${FIELD}: the default profile could not be loaded (${Buffer.from(stderr).toString("utf8").trim()}); install apparmor, or set disable_apparmor`,
    );
}
