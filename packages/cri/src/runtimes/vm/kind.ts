/** Handlers of runtime_type io.containerd.berth-vm.v1: each pod a virtual machine. */
import { toldByAgent } from "@berth/vm";
import { precondition, unimplemented } from "../../errors.ts";
import type { HandlerFeatures, RuntimeKind } from "../kind.ts";
import { vmContainers } from "./containers.ts";
import { Machines, type VmOptions } from "./machines.ts";
import { checkVm, vmPods } from "./pods.ts";

export const VM_TYPE = "io.containerd.berth-vm.v1";

const NONE: HandlerFeatures = { recursiveReadOnlyMounts: false, userNamespaces: false };

export interface VmKind extends RuntimeKind, AsyncDisposable {}

export function vmKind(options: VmOptions): VmKind {
  const machines = new Machines(options);
  return {
    ...vmPods(machines),
    ...vmContainers(machines),
    name: "vm",
    serves: ({ type, path }) => type === VM_TYPE && path === undefined,
    check: async (context, handler) => await checkVm(handler, machines, context),
    features: () => Promise.resolve(NONE),
    recordOf: () => Promise.resolve({ runtime: "vm" }),
    adapt: (_context, spec) => spec,
    leavesHooks: false,
    subreaper: false,
    told: (_context, _record, work) => toldByAgent(work),
    made: () => Promise.resolve(),
    dump: () => Promise.reject(unimplemented("a container in a virtual machine cannot be checkpointed")),
    programOf: () => "berth-vm",
    explain: (_context, { record }) => {
      throw precondition(`container "${record.id}" was made in its pod's virtual machine`);
    },
    [Symbol.asyncDispose]: () => machines.close(),
  };
}
