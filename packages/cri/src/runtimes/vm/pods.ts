/** Pods that are virtual machines: started when network and files are there, and the first to go when containers have ended. */
import { allowSandbox, guestFilesOf, hypervisorProgram, loadSettings, startMachine, virtiofsdOf } from "@berth/vm";
import type { CriContext } from "../../context.ts";
import { invalid, unimplemented } from "../../errors.ts";
import { handlerOf, type RuntimeHandler } from "../../handlers.ts";
import type { Progress } from "../../progress.ts";
import { hostnameOf, podNamespaces, podSysctls, SHM_SIZE } from "../../sandbox/namespaces.ts";
import type { Sandbox } from "../../store/records.ts";
import type { PodKind } from "../kind.ts";
import { inVmsWords } from "./errors.ts";
import { machineCgroup, Machines } from "./machines.ts";
import { podDevices } from "./devices.ts";
import { podLimits } from "./size.ts";

export function vmPods(machines: Machines): PodKind {
  return {
    ownsPods: true,
    startPod: (context, progress, sandbox) => startPod(context, machines, progress, sandbox),
    ensureInit: (_context, sandbox) => ensureInit(machines, sandbox),
    releasePod: async (context, sandbox) => {
      sandbox.init?.link?.close();
      sandbox.init = undefined;
      await machines.remove(context, sandbox.record.id);
    },
    adoptPod: async (context, sandbox) => {
      if (!(await machines.adopt(context, sandbox))) return false;
      await adoptInit(machines, sandbox);
      return true;
    },
    dial: async (_context, { record }, port) => await inVmsWords(() => machines.of(record.id).runtime.dial(port)),
  };
}

async function startPod(context: CriContext, machines: Machines, progress: Progress, sandbox: Sandbox): Promise<void> {
  const { record } = sandbox;
  const { config } = record;
  const { hostNetwork, hostIpc, userns } = podNamespaces(config);
  if (hostIpc)
    throw invalid(
      "linux.security_context.namespace_options.ipc: a virtual machine cannot share the node's memory segments; use another runtime class for this pod",
    );
  if (hostNetwork)
    throw invalid(
      "linux.security_context.namespace_options.network: a virtual machine cannot be on the node's network; use another runtime class for this pod",
    );
  if (userns)
    throw unimplemented(
      "linux.security_context.namespace_options.userns_options: a pod in a virtual machine has no user namespace; its root is the machine's",
    );
  const handler = handlerOf(context, record.handler);
  const settings = await inVmsWords(() =>
    loadSettings({
      named: handler.options.configPath,
      environment: process.env["KATA_CONF_FILE"],
      annotations: config.annotations,
    }),
  );
  const policy = await inVmsWords(() => machines.policyOf(record));
  const machine = await inVmsWords(async () => {
    allowSandbox(policy, { id: record.id, hostname: hostnameOf(config), networked: record.netns !== undefined });
    return await startMachine(machines.hostOf(context), {
      id: Machines.idOf(record.id),
      pod: record.id,
      settings,
      devices: settings.hypervisor.cold_plug_vfio === "no-port" ? [] : await podDevices(context, config.annotations),
      netns: record.netns,
      limits: podLimits(record),
      cgroup: machineCgroup(context, record),
      hostname: hostnameOf(config),
      shmSize: SHM_SIZE,
      sysctls: { ...podSysctls(context, { userns: undefined }), ...config.linux?.sysctls },
      policy: policy.text,
      onStep: (step) => progress.step(step),
      signal: progress.signal,
    });
  });
  await machines.add(context, sandbox, machine, policy);
}

export async function checkVm(handler: RuntimeHandler, machines: Machines, context: CriContext): Promise<void> {
  await inVmsWords(async () => {
    const settings = await loadSettings({
      named: handler.options.configPath,
      environment: process.env["KATA_CONF_FILE"],
    });
    hypervisorProgram(settings);
    if (settings.hypervisor.shared_fs === "virtio-fs") virtiofsdOf(settings);
    await guestFilesOf(machines.hostOf(context), settings);
  });
}

/** The reaping PID 1 of a pod that shares its PID namespace, in the guest. With the sandbox's lock held. */
async function ensureInit(machines: Machines, sandbox: Sandbox): Promise<void> {
  sandbox.init ??= await inVmsWords(() => machines.of(sandbox.record.id).runtime.startInit());
}

async function adoptInit(machines: Machines, sandbox: Sandbox): Promise<void> {
  const init = await machines.of(sandbox.record.id).runtime.findInit();
  if (init) sandbox.init = init;
}
