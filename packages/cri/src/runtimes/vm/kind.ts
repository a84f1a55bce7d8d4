/** Handlers of runtime_type io.containerd.berth-vm.v1: each pod a virtual machine. */
import { precondition, unimplemented } from "../../errors.ts";
import type { RuntimeKind } from "../kind.ts";
import { instant } from "../../clock.ts";
import { tellBoot } from "./boot.ts";
import { vmContainers } from "./containers.ts";
import { Machines, type VmOptions } from "./machines.ts";
import { checkVm, vmPods } from "./pods.ts";

export const VM_TYPE = "io.containerd.berth-vm.v1";

const NO_DUMP = "a container in a virtual machine cannot be checkpointed";

export interface VmKind extends RuntimeKind, AsyncDisposable {}

export function vmKind(options: VmOptions): VmKind {
  const machines = new Machines(options);
  const pods = vmPods(machines);
  return {
    ...pods,
    startPod: async (context, progress, sandbox) => {
      const since = instant();
      await pods.startPod(context, progress, sandbox);
      tellBoot(context, machines, sandbox.record.id, since);
    },
    ...vmContainers(machines),
    name: "vm",
    recover: (context) => machines.sweep(context),
    serves: ({ type, path }) => type === VM_TYPE && path === undefined,
    check: async (context, handler) => await checkVm(handler, machines, context),
    // By the host's mounts of what it shares.
    features: ({ host }) =>
      Promise.resolve({ recursiveReadOnlyMounts: host.features.mountSetattr, userNamespaces: false }),
    recordOf: () => Promise.resolve({ runtime: "vm" }),
    adapt: (_context, spec) => spec,
    leavesHooks: false,
    subreaper: false,
    told: (_context, { id, sandboxId }, work) => machines.find(sandboxId)?.runtime.told(id, work) ?? work,
    made: () => Promise.resolve(),
    noDump: NO_DUMP,
    dump: () => Promise.reject(unimplemented(NO_DUMP)),
    programOf: () => "berth-vm",
    explain: (_context, { record }) => {
      throw precondition(`container "${record.id}" was made in its pod's virtual machine`);
    },
    [Symbol.asyncDispose]: () => machines.close(),
  };
}
