/** A guest's runtime behind its pod's policy: what that does not allow is not asked of the guest. How long the rest takes is counted. */
import type { GuestRuntime } from "../guest/runtime.ts";
import type { MachineCounters } from "../monitor/sandbox.ts";
import { VmError } from "../errors.ts";
import type { PodMachine } from "../sandbox/machine.ts";
import type { PodPolicy } from "./pod.ts";
import { createContainer, execProcess, ofContainer } from "./requests.ts";
import type { Value } from "./syntax.ts";

export interface Guard {
  readonly policy: PodPolicy;
  readonly counters: MachineCounters;
}

/** The machine with its guest's runtime behind its pod's policy. Not copied: not every machine has all of it to be looked at. */
export const guardedMachine = (machine: PodMachine, guard: Guard): PodMachine =>
  Object.create(machine, { runtime: { value: guarded(machine.runtime, guard), enumerable: true } }) as PodMachine;

/** Its calls reject with VmError Denied where the policy says so. What ends and gives back is always allowed: it goes with the machine. */
function guarded(runtime: GuestRuntime, { policy, counters }: Guard): GuestRuntime {
  const asked = async <T>(request: string, input: () => Value, work: () => Promise<T>): Promise<T> => {
    policy.check(request, input);
    return await counters.requests.time(`grpc.${request}`, work);
  };
  const allows = (request: string, input: () => Value): boolean => {
    try {
      policy.check(request, input);
      return true;
    } catch (error) {
      if (error instanceof VmError && error.code === "Denied") return false;
      throw error;
    }
  };
  return {
    ...runtime,
    create: async (container) => {
      const { id } = container;
      const streams = (): Value => ofContainer(id, { exec_id: id });
      // Its output goes to its log without being asked for, and its start has no answer but its own.
      policy.check("StartContainerRequest", () => ofContainer(id));
      policy.check("ReadStreamRequest", streams);
      const stdin = container.stdin && allows("WriteStreamRequest", streams);
      return await asked(
        "CreateContainerRequest",
        () => createContainer(container),
        () => runtime.create({ ...container, stdin }),
      );
    },
    exec: async (process) =>
      await asked(
        "ExecProcessRequest",
        () => execProcess(process.id, process.process),
        async () => {
          policy.check("ReadStreamRequest", () => ofContainer(process.id, { exec_id: "" }));
          return await runtime.exec(process);
        },
      ),
    signal: async (id, signal) =>
      await asked(
        "SignalProcessRequest",
        () => ofContainer(id, { exec_id: id, signal }),
        () => runtime.signal(id, signal),
      ),
    update: async (id, resources, options) =>
      await asked(
        "UpdateContainerRequest",
        () => ofContainer(id),
        () => runtime.update(id, resources, options),
      ),
    // What may not be known is not told: a list of others must not fail for it.
    stats: async (id, directory) =>
      allows("StatsContainerRequest", () => ofContainer(id))
        ? await counters.requests.time("grpc.StatsContainerRequest", () => runtime.stats(id, directory))
        : undefined,
    detail: async (id, directory) =>
      allows("StatsContainerRequest", () => ofContainer(id)) ? await runtime.detail(id, directory) : undefined,
    pause: async (id) =>
      await asked(
        "PauseContainerRequest",
        () => ofContainer(id),
        () => runtime.pause(id),
      ),
    resume: async (id) =>
      await asked(
        "ResumeContainerRequest",
        () => ofContainer(id),
        () => runtime.resume(id),
      ),
  };
}

/** Before a pod's machine is started. Throws VmError Denied. */
export function allowSandbox(policy: PodPolicy, { id, hostname, networked }: SandboxRequest): void {
  policy.check("CreateSandboxRequest", () => ({
    hostname,
    sandbox_id: id,
    sandbox_pidns: false,
    dns: [],
    storages: [],
  }));
  if (!networked) return;
  for (const request of ["UpdateInterfaceRequest", "UpdateRoutesRequest"]) policy.check(request, () => ({}));
}

export interface SandboxRequest {
  readonly id: string;
  readonly hostname: string;
  /** Whether it gets interfaces and routes. */
  readonly networked: boolean;
}
