/** A machine whose guest has Kata's agent, from its boot to where containers can be made. */
import { type AgentSandbox, startAgentSandbox } from "../agent/sandbox.ts";
import type { AgentAddress } from "../agent/connect.ts";
import type { VmSettings } from "../configuration/settings.ts";
import { CARRIED_SOCKET } from "../hypervisor/choose.ts";
import { guestSocket, type Machine, VSOCK_PORT } from "../hypervisor/machine.ts";
import type { PodInterface } from "../network/host.ts";
import type { VmHost } from "./host.ts";

export interface KataGuestRequest {
  readonly settings: VmSettings;
  readonly hostname: string;
  readonly shmSize: number;
  readonly sysctls: Readonly<Record<string, string>>;
  readonly policy?: string | undefined;
  readonly signal?: AbortSignal | undefined;
}

const addressOf = ({ agent, directory }: Machine): AgentAddress => ({
  socket: guestSocket(directory),
  port: VSOCK_PORT,
  path: agent === "kata-carried" ? CARRIED_SOCKET : undefined,
});

export async function startKataGuest(
  { log, bosun }: Pick<VmHost, "log" | "bosun">,
  machine: Machine,
  { settings, hostname, shmSize, sysctls, policy, signal }: KataGuestRequest,
  interfaces: readonly PodInterface[],
): Promise<AgentSandbox> {
  const { agent, runtime } = settings;
  return await startAgentSandbox(
    machine.directory,
    addressOf(machine),
    {
      id: machine.id,
      hostname,
      shmSize,
      sysctls,
      interfaces,
      hasShare: machine.shares.length > 0,
      policy,
      bosun,
      kernelModules: agent.kernel_modules,
      createMs: runtime.create_container_timeout * 1000,
    },
    { timeoutMs: agent.dial_timeout * 1000, signal, warn: (message) => log("warn", message) },
  );
}
