/** A machine's management by whoever runs it: its HTTP interface, and the way to its guest. */
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import type { HostFacts } from "@berth/kernel";
import { VmError } from "../errors.ts";
import { exposition } from "../monitor/exposition.ts";
import { type MachineCounters, SandboxMetrics } from "../monitor/sandbox.ts";
import type { PodPolicy } from "../policy/pod.ts";
import { relaySocket } from "../sandbox/host.ts";
import type { PodMachine } from "../sandbox/machine.ts";
import { type AgentSocketOptions, serveAgentSocket } from "./agent-socket.ts";
import { openDebugConsole } from "./debug-console.ts";
import { directVolumeStats, resizeDirectVolume } from "../storage/volume-size.ts";
import type { ManagedSandbox } from "./sandbox.ts";
import { serveManagement } from "./server.ts";

export interface ManagedMachine {
  /** The pod's whole id. */
  readonly id: string;
  readonly machine: PodMachine;
  readonly policy: PodPolicy;
  readonly counters: MachineCounters;
  /** Of the hypervisor and its helpers, on this node. */
  readonly cgroup: string;
  readonly host: HostFacts;
  /** Each pod has a directory there: /run/vc/sbs is where Kata's clients look. */
  readonly sandboxes: string;
  readonly log: (level: "debug" | "warn", message: string) => void;
}

/** Served until it is disposed of; removeManagement takes the directory away. */
export async function manageMachine(managed: ManagedMachine): Promise<AsyncDisposable> {
  const { id, machine, sandboxes, log } = managed;
  await using parts = new AsyncDisposableStack();
  const directory = join(sandboxes, id);
  await mkdir(sandboxes, { recursive: true, mode: 0o711 });
  await mkdir(directory, { recursive: true, mode: 0o700 });
  parts.use(
    await serveAgentSocket({
      directory,
      relay: relaySocket(machine.directory),
      console: ownConsole(machine),
      log,
    }),
  );
  parts.use(await serveManagement(sandboxOf(managed), { sandboxes, log }));
  return parts.move();
}

/** Undefined: the guest's agent is Kata's, which has one of its own at the port. */
function ownConsole(machine: PodMachine): AgentSocketOptions["console"] {
  try {
    const { guest, settings } = machine;
    return () => openDebugConsole(guest, settings);
  } catch (error) {
    if (error instanceof VmError && error.code === "Unsupported") return undefined;
    throw error;
  }
}

function sandboxOf({ id, machine, policy, counters, cgroup, host }: ManagedMachine): ManagedSandbox {
  const { directory, runtime } = machine;
  const metrics = new SandboxMetrics({ directory, cgroup, host, guest: runtime.tools, counters });
  return {
    id,
    metrics: async () => {
      policy.check("GetMetricsRequest", () => ({}));
      return exposition(await metrics.families());
    },
    iptables: async (v6) => {
      policy.check("GetIPTablesRequest", () => ({ is_ipv6: v6 }));
      return await runtime.tools.readIptables(v6);
    },
    setIptables: async (v6, rules) => {
      policy.check("SetIPTablesRequest", () => ({ is_ipv6: v6, data: [...rules] }));
      await runtime.tools.writeIptables(v6, rules);
    },
    volumeStats: async (path) => {
      policy.check("GetVolumeStatsRequest", () => ({ volume_guest_path: path }));
      return await directVolumeStats(machine, path);
    },
    resizeVolume: async (path, size) => {
      policy.check("ResizeVolumeRequest", () => ({ volume_guest_path: path, size }));
      await resizeDirectVolume(machine, path, size);
    },
    setPolicy: async (text) => {
      await policy.set(text);
      await runtime.tools.setPolicy(text);
    },
  };
}
