/** What pods in virtual machines take: all of packages/vm, so it is loaded when there is such a pod. */
import { instant } from "../../clock.ts";
import type { PodKind, RuntimeKind } from "../kind.ts";
import { tellBoot } from "./boot.ts";
import { vmContainers } from "./containers.ts";
import { Machines, type VmOptions } from "./machines.ts";
import { checkVm, vmPods } from "./pods.ts";

type Verbs = "check" | "plan" | "told" | "signal" | "kill" | "release" | "exec" | "update" | "stats" | "detail";

export interface MachinesKind
  extends AsyncDisposable, PodKind, Pick<RuntimeKind, Verbs>, Required<Pick<RuntimeKind, "recover">> {}

export function machinesKind(options: VmOptions): MachinesKind {
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
    recover: (context) => machines.sweep(context),
    check: (context, handler) => checkVm(handler, machines, context),
    told: (_context, { id, sandboxId }, work) => machines.find(sandboxId)?.runtime.told(id, work) ?? work,
    [Symbol.asyncDispose]: () => machines.close(),
  };
}
