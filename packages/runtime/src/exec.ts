/** A further process in a running container, as a plan: one setns by pidfd, then what becomes of every process. */
import { CGROUP_SLOT, CLONE, cgroupJoin, MOUNT_ATTR, NAMESPACE_FLAGS, NO_SLOT, O } from "@berth/kernel";
import type { oci } from "@berth/spec";
import { PlanBuilder } from "./builder.ts";
import { PlanError, type ExecContext, type ExecTarget, type Planned } from "./context.ts";
import type { StateSource } from "./hooks.ts";
import { addFilter, checkListener, listens } from "./listener.ts";
import {
  ALL_CPUS,
  becomeProcess,
  cpuMask,
  lookUpHome,
  needsAppArmor,
  needsHome,
  needsSelinux,
  securityLabels,
  stageProcess,
  type ProcessContext,
} from "./process.ts";
import { ordinaryUser } from "./rootless.ts";

/** Throws PlanError. The caller knows that `target.pid` is still the container's. */
export function planExec(target: ExecTarget, process: oci.Process, context: ExecContext): Planned {
  if (!process.cwd.startsWith("/"))
    throw new PlanError("process.cwd", `${JSON.stringify(process.cwd)} is not an absolute path`);
  const { spec } = target;
  const types = new Set<oci.NamespaceType>(["mount", ...(spec.linux?.namespaces ?? []).map(({ type }) => type)]);
  const inUserns = types.has("user");
  const plan = new PlanBuilder();
  const source: StateSource = { id: context.id ?? "", bundle: context.bundle, spec };
  checkListener(plan, spec.linux?.seccomp);
  const processContext: ProcessContext = {
    host: context.host,
    inUserns,
    preserveFds: context.preserveFds ?? 0,
    personality: spec.linux?.personality,
    memoryPolicy: spec.linux?.memoryPolicy,
    addSeccomp: () => {
      if (context.seccomp !== undefined)
        addFilter(
          plan,
          context.seccomp,
          spec.linux?.seccomp,
          source,
          target.pid,
          ordinaryUser(context.host) !== undefined,
        );
    },
  };

  const isOrdinary = ordinaryUser(context.host) !== undefined;
  const hide = () => plan.add("dumpable", { value: 0 }, "CVE-2016-9962");
  // What an ordinary user writes of this process in /proc would belong to root once it is not dumpable.
  if (!isOrdinary) hide();
  if (context.seccomp !== undefined && listens(spec.linux?.seccomp)) plan.add("aside", {}, "seccomp's listener");
  const affinity = process.execCPUAffinity ?? spec.process?.execCPUAffinity ?? {};
  const initial = cpuMask(affinity.initial, "process.execCPUAffinity.initial");
  const final = cpuMask(affinity.final, "process.execCPUAffinity.final");
  if (initial !== undefined) plan.add("affinity", { mask: initial }, "process.execCPUAffinity.initial");
  const { orders, slot } = cgroupJoin(target.cgroup.path, context.host, CGROUP_SLOT);
  plan.addAll(orders);
  stageProcess(plan, process, processContext);
  if (isOrdinary) hide();
  const pidfd = plan.slot("pid");
  plan.add("pidfd", { slot: pidfd, pid: target.pid }, "exec");
  plan.add("setns", { slot: pidfd, type: joinFlags(types) }, "linux.namespaces");
  plan.add("clone", { flags: 0n, cgroupSlot: slot ?? NO_SLOT, uidMap: "", gidMap: "", denySetgroups: 0 }, "exec");
  if (slot !== undefined) plan.add("close", { slot }, "linux.cgroupsPath");
  if (inUserns)
    plan.add("user", { uid: 0, gid: 0, groups: [], keepGroups: 1, chownStdio: 0 }, "linux.namespaces (user)");
  plan.add("dumpable", { value: 0 }, "CVE-2016-9962");
  // Only now is this process in the container's cgroup: before, it was outside the namespace's root, and the clone into the
  // cgroup would have been refused (nsdelegate).
  if (types.has("cgroup")) plan.add("setns", { slot: pidfd, type: CLONE.NEWCGROUP }, "linux.namespaces (cgroup)");
  plan.add("close", { slot: pidfd }, "exec");
  if (final !== undefined) plan.add("affinity", { mask: final }, "process.execCPUAffinity.final");
  else if (initial === undefined) plan.add("affinity", { mask: ALL_CPUS }, "every CPU of its cgroup");
  plan.add("setsid", {}, "its own session");
  if (!context.noNewKeyring) plan.add("keyring", { name: `_ses.exec.${target.pid}` }, "its own session keyring");
  labels(plan, process, context);
  if (context.terminal || needsHome(process)) useRoot(plan, process, context);
  becomeProcess(plan, process, { ...processContext, checksProgram: context.checksProgram }, undefined);
  return { plan: plan.plan(), warnings: plan.warnings };
}

/** The container's root, which this process is in: for the terminal, and for the image's passwd. */
function useRoot(plan: PlanBuilder, process: oci.Process, context: ExecContext): void {
  const because = context.terminal ? "process.terminal" : "process.env (HOME)";
  const root = plan.slot(because);
  plan.add("open", { slot: root, path: "/", flags: BigInt(O.PATH | O.DIRECTORY) }, because);
  if (context.terminal) openConsole(plan, process, context, root);
  lookUpHome(plan, process, root);
  plan.add("close", { slot: root }, because);
}

/** All at once, but for the cgroup namespace. */
function joinFlags(types: ReadonlySet<oci.NamespaceType>): bigint {
  let flags = 0n;
  for (const type of types) if (type !== "cgroup") flags |= NAMESPACE_FLAGS[type];
  return flags;
}

function labels(plan: PlanBuilder, process: oci.Process, context: ExecContext): void {
  if (!needsAppArmor(process, context.host) && !needsSelinux(process, context.host)) return;
  const proc = plan.slot("process.apparmorProfile");
  const attrs = MOUNT_ATTR.NOSUID | MOUNT_ATTR.NODEV | MOUNT_ATTR.NOEXEC;
  plan.add(
    "fs_mount",
    { slot: proc, fstype: "proc", source: "proc", options: ["subset=pid"], attrs, fdKeys: [], fdSlots: [] },
    "process.apparmorProfile",
  );
  securityLabels(plan, process, context.host, proc);
  plan.add("close", { slot: proc }, "process.apparmorProfile");
}

function openConsole(plan: PlanBuilder, process: oci.Process, context: ExecContext, root: number): void {
  const size = context.consoleSize ?? process.consoleSize;
  plan.add("console", { root, rows: size?.height ?? 0, columns: size?.width ?? 0, bindConsole: 0 }, "process.terminal");
}
