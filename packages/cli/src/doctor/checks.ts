/** What a node needs, what is wrong with this one, and the command that mends it. */
import { atLeast, type CgroupHierarchies, parseKernelVersion } from "@berth/kernel";
import { humanSize } from "../units.ts";
import type { Machine } from "./machine.ts";

export interface Finding {
  /** bad: pods will not run, or not as they ask. warning: something will be missed sooner or later. */
  readonly state: "ok" | "warning" | "bad";
  readonly what: string;
  readonly found: string;
  /** A command. */
  readonly mend?: string;
}

type Verdict = Omit<Finding, "what">;
const ok = (found: string): Verdict => ({ state: "ok", found });
const warning = (found: string, mend?: string): Verdict => ({ state: "warning", found, ...(mend && { mend }) });
const bad = (found: string, mend?: string): Verdict => ({ state: "bad", found, ...(mend && { mend }) });

export interface Patient {
  readonly machine: Machine;
  readonly cgroups: CgroupHierarchies;
  /** berthd's persistent directory. */
  readonly root: string;
  /** berthd's; undefined: it does not answer. */
  readonly driver: CgroupDriver | undefined;
}

export type CgroupDriver = "systemd" | "cgroupfs";

type Check = readonly [what: string, look: (patient: Patient) => Promise<Verdict> | Verdict];

export const CHECKS: readonly Check[] = [
  [
    "user",
    ({ machine }) =>
      machine.uid === 0 ? ok("root") : warning("not root: some of this cannot be seen", "sudo berth doctor"),
  ],
  ["kernel", kernel],
  ["cgroups", cgroupControllers],
  ["cgroup driver", cgroupDriver],
  ["AppArmor", apparmor],
  ["overlay file system", (patient) => fileSystem(patient, "overlay", bad)],
  ["EROFS", (patient) => fileSystem(patient, "erofs", warning)],
  ["libseccomp", libseccomp],
  ["CNI plugins", cniPlugins],
  ["packet filter", packetFilter],
  ["IPv4 forwarding", ({ machine }) => sysctl(machine, "net.ipv4.ip_forward", bad)],
  ["bridged traffic is filtered", bridgeFilter],
  ["swap", swap],
  ["inotify instances", ({ machine }) => atLeastSysctl(machine, "fs.inotify.max_user_instances", 512)],
  ["inotify watches", ({ machine }) => atLeastSysctl(machine, "fs.inotify.max_user_watches", 65_536)],
  ["process numbers", ({ machine }) => atLeastSysctl(machine, "kernel.pid_max", 65_536)],
  ["clock", clock],
  ["disk", disk],
];

export async function examine(patient: Patient): Promise<Finding[]> {
  const findings: Finding[] = [];
  for (const [what, look] of CHECKS) findings.push({ what, ...(await look(patient)) });
  return findings;
}

function kernel({ machine }: Patient): Verdict {
  const version = parseKernelVersion(machine.kernel);
  return atLeast(version, 5, 15) ? ok(machine.kernel) : bad(`${machine.kernel}; berth needs 5.15 or newer`);
}

function cgroupControllers({ cgroups }: Patient): Verdict {
  const there = new Set([
    ...cgroups.v1.flatMap(({ controllers }) => controllers),
    ...(cgroups.unified?.controllers ?? []),
  ]);
  const missing = ["cpu", "memory", "pids"].filter((name) => !there.has(name));
  if (missing.length === 0) return ok(cgroups.mode);
  const parameters = missing.map((name) => `cgroup_enable=${name}`).join(" ");
  return bad(`${cgroups.mode}, without ${missing.join(", ")}`, `boot with the kernel parameters ${parameters}`);
}

const KUBELET = "/var/lib/kubelet/config.yaml";

/** Who makes the pods' cgroups must be one: the kubelet, berthd, and where it is the init, systemd. */
async function cgroupDriver({ machine, driver }: Patient): Promise<Verdict> {
  if (driver === undefined) return ok("not known while berthd does not answer");
  const other = driver === "systemd" ? "cgroupfs" : "systemd";
  const mend = `sed -i 's/SystemdCgroup = ${driver === "systemd"}/SystemdCgroup = ${driver !== "systemd"}/' /etc/berth/config.toml && systemctl restart berthd`;
  const isInit = (await machine.read("/proc/1/comm"))?.trim() === "systemd";
  if (driver === "systemd" && !isInit) return bad("systemd, which is not this machine's init", mend);
  const said = /^cgroupDriver:\s*["']?(\w+)/m.exec((await machine.read(KUBELET)) ?? "")?.[1];
  if (said === other) return bad(`berthd has ${driver}, the kubelet ${other} (${KUBELET}): pods are refused`, mend);
  if (driver === "cgroupfs" && isInit)
    return warning("cgroupfs, beside systemd, which has cgroups of its own: two count what the machine has left", mend);
  return ok(driver);
}

async function apparmor({ machine }: Patient): Promise<Verdict> {
  const enabled = (await machine.read("/sys/module/apparmor/parameters/enabled"))?.startsWith("Y");
  if (enabled !== true) return ok("not enabled on this kernel");
  if (await machine.hasProgram("apparmor_parser")) return ok("enabled");
  return warning("no apparmor_parser: containers run without the default profile", "apt-get install apparmor");
}

async function fileSystem({ machine }: Patient, name: string, otherwise: typeof bad): Promise<Verdict> {
  const known = (await machine.read("/proc/filesystems")) ?? "";
  if (known.split(/\s+/).includes(name)) return ok("known to the kernel");
  return otherwise("not known to the kernel (it may be a module that is loaded at need)", `modprobe ${name}`);
}

async function libseccomp({ machine }: Patient): Promise<Verdict> {
  const top = ["/lib", "/lib64", "/usr/lib", "/usr/lib64"];
  const dirs = [
    ...top,
    ...(await machine.list("/usr/lib")).filter((name) => name.includes("-linux-")).map((name) => `/usr/lib/${name}`),
  ];
  for (const dir of dirs) if ((await machine.list(dir)).includes("libseccomp.so.2")) return ok(dir);
  return bad("no libseccomp.so.2: seccomp profiles cannot be compiled", "apt-get install libseccomp2");
}

async function cniPlugins({ machine }: Patient): Promise<Verdict> {
  const found = new Set<string>();
  for (const dir of ["/opt/cni/bin", "/usr/lib/cni"]) for (const name of await machine.list(dir)) found.add(name);
  const missing = ["bridge", "host-local", "portmap", "loopback"].filter((name) => !found.has(name));
  if (missing.length === 0) return ok("bridge, host-local, portmap, loopback");
  return warning(
    `none called ${missing.join(", ")} in /opt/cni/bin or /usr/lib/cni`,
    "apt-get install containernetworking-plugins",
  );
}

async function packetFilter({ machine }: Patient): Promise<Verdict> {
  if (await machine.hasProgram("iptables")) return ok("iptables");
  return bad("no iptables, which the bridge and portmap plugins call", "apt-get install iptables");
}

async function sysctl(machine: Machine, name: string, otherwise: typeof bad): Promise<Verdict> {
  const value = (await machine.read(`/proc/sys/${name.replaceAll(".", "/")}`))?.trim();
  if (value === "1") return ok(`${name} = 1`);
  const mend = `echo "${name} = 1" >/etc/sysctl.d/99-berth.conf && sysctl --system`;
  return otherwise(
    value === undefined ? `${name} is not there` : `${name} = ${value}: pods reach nothing beyond this node`,
    mend,
  );
}

/** Only plugins that rely on iptables for traffic between pods of one bridge need it; kubeadm asks for it. */
async function bridgeFilter({ machine }: Patient): Promise<Verdict> {
  const name = "net.bridge.bridge-nf-call-iptables";
  const value = (await machine.read(`/proc/sys/${name.replaceAll(".", "/")}`))?.trim();
  if (value === "1") return ok(`${name} = 1`);
  if (value === undefined)
    return warning("the module br_netfilter is not loaded; kubeadm asks for it", "modprobe br_netfilter");
  return warning(`${name} = ${value}; kubeadm asks for 1`, `sysctl -w ${name}=1`);
}

async function swap({ machine }: Patient): Promise<Verdict> {
  const areas = ((await machine.read("/proc/swaps")) ?? "").trim().split("\n").slice(1);
  if (areas.length === 0) return ok("none");
  return warning(`${areas.length} in use; a kubelet does not start with it unless failSwapOn is false`, "swapoff -a");
}

async function atLeastSysctl(machine: Machine, name: string, least: number): Promise<Verdict> {
  const value = Number((await machine.read(`/proc/sys/${name.replaceAll(".", "/")}`)) ?? Number.NaN);
  if (Number.isNaN(value)) return warning(`${name} is not there`);
  if (value >= least) return ok(`${name} = ${value}`);
  return warning(`${name} = ${value}; ${least} is little enough for a hundred pods`, `sysctl -w ${name}=${least}`);
}

/** As /proc/PID/comm has them, at most 15 characters. */
const CLOCK_KEEPERS = new Set(["chronyd", "ntpd", "systemd-timesyn", "openntpd", "ptp4l", "phc2sys"]);

/** Certificates and tokens are refused by a clock that is wrong. */
async function clock({ machine }: Patient): Promise<Verdict> {
  for (const pid of (await machine.list("/proc")).filter((name) => /^\d+$/.test(name))) {
    const name = (await machine.read(`/proc/${pid}/comm`))?.trim() ?? "";
    if (CLOCK_KEEPERS.has(name)) return ok(`kept by ${name}`);
  }
  return warning("no program keeps it (chronyd, ntpd, systemd-timesyncd)", "apt-get install chrony");
}

/** The kubelet begins to evict at 15 % of the images' file system, and at 5 % of its inodes. */
async function disk({ machine, root }: Patient): Promise<Verdict> {
  const { bytes, share, inodes } = await machine.free(root);
  const found = `${humanSize(bytes)} (${Math.round(share * 100)} %) free for ${root}`;
  const mend = "berth system prune, or a larger disk";
  if (inodes < 0.05) return bad(`${Math.round(inodes * 100)} % of the inodes free for ${root}`, mend);
  return share < 0.15 ? warning(`${found}: the kubelet evicts below 15 %`, mend) : ok(found);
}
