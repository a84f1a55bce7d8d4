/** Containers in a guest whose agent is Kata's. */
import { randomBytes } from "node:crypto";
import { mkdir, rm, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { Order } from "@berth/kernel";
import type { oci } from "@berth/spec";
import { agent } from "@berth/spec/kata";
import { CODE, requestFrame } from "@berth/ttrpc";
import { VmError } from "../errors.ts";
import {
  type GuestContainer,
  type GuestExec,
  type GuestInit,
  type GuestProcess,
  type GuestRuntime,
  type GuestTools,
} from "../guest/runtime.ts";
import { standInOom } from "../guest/stand-in.ts";
import { shareWritable } from "../sandbox/host.ts";
import { believable } from "../guest/believable.ts";
import { type AgentClient, AgentError } from "./client.ts";
import { setAgentPolicy } from "./policy.ts";
import { oomLinks } from "./oom.ts";
import { agentProcessOrder } from "./process.ts";
import { agentProcess, agentResources, agentSpec, wantsSandboxPids } from "./spec.ts";
import { statsOfAgent, volumeStatsOf } from "./stats.ts";
import { toldByAgent } from "./words.ts";
import { AGENT_PLACES, watchVolumes } from "./storage.ts";

const { method } = agent.AgentService;
const SIGKILL = 9;
/** A guest that hangs must not keep its pod from ending. */
const WITHIN = { timeoutMs: 10_000 };
const REMOVAL_S = 8;

export interface AgentGuest {
  readonly client: AgentClient;
  /** The machine's directory. */
  readonly directory: string;
  /** Whether this agent can filter system calls. */
  readonly seccomp: boolean;
  /** Whether there is a PID namespace for all containers that want it. */
  readonly sharesPids: boolean;
  /** The pod's, which the agent sets for containers alone. By name with dots. */
  readonly sysctls: Readonly<Record<string, string>>;
  /** Milliseconds that the making of a container may take. */
  readonly createMs: number;
}

const agentTools = (client: AgentClient): GuestTools => ({
  metrics: async () => (await client.call(method.getMetrics, {}, WITHIN)).metrics,
  usage: () => Promise.resolve(undefined),
  boot: () => Promise.resolve(undefined),
  readIptables: async (isIpv6) => (await client.call(method.getIPTables, { isIpv6 })).data,
  writeIptables: async (isIpv6, data) => void (await client.call(method.setIPTables, { isIpv6, data })),
  setPolicy: async (policy) => void (await setAgentPolicy(client, policy)),
  volumeStats: async (volumeGuestPath) => volumeStatsOf(await client.call(method.getVolumeStats, { volumeGuestPath })),
});

export function agentRuntime(guest: AgentGuest): GuestRuntime {
  const { client } = guest;
  return {
    places: AGENT_PLACES,
    tools: agentTools(client),
    create: (container) => create(guest, container),
    told: (_id, work) => toldByAgent(work),
    exec: (process) => exec(guest, process),
    signal: async (id, signal) => void (await kill(client, id, "", signal)),
    kill: (id) => kill(client, id, "", SIGKILL),
    release: (id) => release(guest, id),
    update: async (id, resources, options) => await update(client, id, resources, options?.signal),
    stats: async (id) => {
      const answer = await ifThere(client.call(method.statsContainer, { containerId: id }, WITHIN));
      return answer && believable(statsOfAgent(answer));
    },
    // It tells of cgroups what StatsContainer has, and of processes nothing.
    detail: () => Promise.resolve(undefined),
    pause: async (id) => void (await client.call(method.pauseContainer, { containerId: id }, WITHIN)),
    resume: async (id) => void (await client.call(method.resumeContainer, { containerId: id }, WITHIN)),
    online: async (_count, added) =>
      void (await client.call(method.onlineCPUMem, { wait: true, nbCpus: added, cpuOnly: true })),
    startInit: () => (guest.sharesPids ? Promise.resolve(INFRA) : Promise.reject(noSharedPids())),
    findInit: () => Promise.resolve(guest.sharesPids ? INFRA : undefined),
    dial: (port) => Promise.reject(unsupported(`port ${port} of the machine's loopback`, "no way to it")),
  };
}

/** It has been there since the sandbox has: what is asked for is a container in its namespace, by no number. */
const INFRA: GuestInit = { pid: 1 };

const noSharedPids = (): VmError => unsupported("a PID namespace that a pod's containers share", "no PID 1 for it");

const unsupported = (what: string, why: string): VmError =>
  new VmError("Unsupported", `${what}: Kata's agent has ${why}; use a handler with berth's own guest image`);

async function create(guest: AgentGuest, container: GuestContainer): Promise<Order> {
  const { client, directory } = guest;
  const { id, spec, terminal, stdin } = container;
  const sandboxPidns = wantsSandboxPids(spec);
  if (sandboxPidns && !guest.sharesPids) throw noSharedPids();
  const { mounts, storages } = await watchVolumes(spec.mounts ?? [], id, join(shareWritable(directory), id));
  const { linux = {} } = spec;
  const whole = { ...spec, mounts, linux: { ...linux, sysctl: { ...guest.sysctls, ...linux.sysctl } } };
  const OCI = agentSpec(whole, { cgroup: `/berth/${id}`, seccomp: guest.seccomp });
  await writeFile(standInOom(container.directory).file, "oom_kill 0\n");
  await mkdir(oomLinks(directory), { recursive: true, mode: 0o700 });
  await rm(join(oomLinks(directory), id), { force: true });
  await symlink(container.directory, join(oomLinks(directory), id));
  await client.call(
    method.createContainer,
    { containerId: id, execId: id, storages, OCI, sandboxPidns },
    { timeoutMs: guest.createMs },
  );
  const start = requestFrame(method.startContainer, { containerId: id });
  return agentProcessOrder(client.address, { containerId: id, execId: "", start, terminal, stdin });
}

const EXEC_ID_BYTES = 16;

async function exec({ client }: AgentGuest, { id, process }: GuestProcess): Promise<GuestExec> {
  const execId = randomBytes(EXEC_ID_BYTES).toString("hex");
  const start = requestFrame(method.execProcess, { containerId: id, execId, process: agentProcess(process) });
  const terminal = process.terminal === true;
  return await Promise.resolve({
    last: agentProcessOrder(client.address, { containerId: id, execId, start, terminal, stdin: true }),
    told: toldByAgent,
    [Symbol.asyncDispose]: async () => {
      // Nobody is interested in it any more; the agent forgets it once its end is asked for.
      if (await kill(client, id, execId, SIGKILL))
        await ifThere(client.call(method.waitProcess, { containerId: id, execId }, WITHIN));
    },
  });
}

/** False: there is no such process. */
async function kill(client: AgentClient, containerId: string, execId: string, signal: number): Promise<boolean> {
  const request = { containerId, execId, signal };
  return (await ifThere(client.call(method.signalProcess, request, WITHIN))) !== undefined;
}

async function release({ client, directory }: AgentGuest, id: string): Promise<void> {
  await ifThere(client.call(method.removeContainer, { containerId: id, timeout: REMOVAL_S }, WITHIN));
  await rm(join(oomLinks(directory), id), { force: true });
}

async function update(
  client: AgentClient,
  id: string,
  resources: oci.LinuxResources,
  signal: AbortSignal | undefined,
): Promise<void> {
  await client.call(method.updateContainer, { containerId: id, resources: agentResources(resources) }, { signal });
}

/** As the agent says it of a container (rpc.rs) and of a process. */
const NO_CONTAINER = /Invalid container id/;

/** Undefined: the agent knows no such container or process. */
async function ifThere<T>(call: Promise<T>): Promise<T | undefined> {
  try {
    return await call;
  } catch (error) {
    if (error instanceof AgentError && (error.status === CODE.notFound || NO_CONTAINER.test(error.message)))
      return undefined;
    throw error;
  }
}
