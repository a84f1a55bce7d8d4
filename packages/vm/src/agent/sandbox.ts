/** A pod in a guest whose agent is Kata's: set up in Kata's order, and found again by a later daemon. */
import { randomBytes } from "node:crypto";
import { mkdir, readFile, rename, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { agent } from "@berth/spec/kata";
import { VmError } from "../errors.ts";
import type { GuestRuntime } from "../guest/runtime.ts";
import type { PodInterface } from "../network/host.ts";
import { shareWritable } from "../sandbox/host.ts";
import { AgentClient } from "./client.ts";
import type { AgentAddress } from "./connect.ts";
import { agentRuntime } from "./containers.ts";
import { followHealth } from "./health.ts";
import { startInfra } from "./infra.ts";
import { setAgentPolicy } from "./policy.ts";
import { configureAgentNetwork } from "./network.ts";
import { followOoms } from "./oom.ts";
import { sandboxStorages } from "./storage.ts";

const { method } = agent.AgentService;

export interface AgentSandboxRequest {
  /** The pod's. */
  readonly id: string;
  readonly hostname: string;
  /** Bytes of /dev/shm. */
  readonly shmSize: number;
  /** By name with dots. */
  readonly sysctls: Readonly<Record<string, string>>;
  readonly interfaces: readonly PodInterface[];
  readonly hasShare: boolean;
  /** The program of the container that holds the pod's PID namespace; undefined: none can be shared. */
  readonly bosun: string | undefined;
  /** In Rego; undefined: the agent's own. */
  readonly policy?: string | undefined;
  /** As [agent.kata] kernel_modules has them: a name and its parameters. */
  readonly kernelModules: readonly string[];
  /** Milliseconds that the making of a container may take. */
  readonly createMs: number;
}

export interface AgentSandboxOptions {
  /** Milliseconds until the agent answers first. */
  readonly timeoutMs: number;
  readonly signal?: AbortSignal | undefined;
  readonly warn: (message: string) => void;
}

export interface AgentSandbox {
  readonly client: AgentClient;
  readonly runtime: GuestRuntime;
  readonly details: agent.AgentDetails | undefined;
  /** Resolves, with the reason, when the agent does not answer any more. */
  readonly lost: Promise<string>;
  /** The guest runs on. */
  close(): void;
}

/** What a later daemon must know: agent.json in the machine's directory. */
interface AgentState {
  readonly address: AgentAddress;
  readonly seccomp: boolean;
  readonly sharesPids: boolean;
  readonly sysctls: Readonly<Record<string, string>>;
  readonly createMs: number;
}

const stateFile = (machine: string): string => join(machine, "agent.json");
/** As Linux has it, HOST_NAME_MAX. */
const LONGEST_HOSTNAME = 64;
const SEED_BYTES = 64;

/** `machine`: its directory. Rejects with VmError Guest, or the signal's reason. */
export async function startAgentSandbox(
  machine: string,
  address: AgentAddress,
  request: AgentSandboxRequest,
  { timeoutMs, signal, warn }: AgentSandboxOptions,
): Promise<AgentSandbox> {
  const options = { signal };
  // The agent mounts its copies of watched volumes there, and cannot make anything at the top of the share.
  await mkdir(join(shareWritable(machine), "watchable"), { recursive: true, mode: 0o711 });
  const client = await AgentClient.connect(address, { timeoutMs, signal });
  try {
    if (request.policy !== undefined && !(await setAgentPolicy(client, request.policy, signal)))
      warn("the guest's agent has no policies of its own; its pod is held to its policy before the agent is asked");
    await configureAgentNetwork(client, request.interfaces, options);
    await client.call(
      method.createSandbox,
      {
        hostname: request.hostname.slice(0, LONGEST_HOSTNAME),
        storages: sandboxStorages(request.hasShare, request.shmSize),
        sandboxId: request.id,
        kernelModules: request.kernelModules.map(moduleOf),
      },
      options,
    );
    const now = Date.now();
    await client.call(
      method.setGuestDateTime,
      { Sec: BigInt(Math.floor(now / 1000)), Usec: BigInt((now % 1000) * 1000) },
      options,
    );
    await client.call(method.reseedRandomDev, { data: randomBytes(SEED_BYTES) }, options);
    const { agentDetails } = await client.call(method.getGuestDetails, { memBlockSize: true }, options);
    const sharesPids = request.bosun !== undefined && request.hasShare;
    if (request.bosun !== undefined && sharesPids)
      await startInfra(client, { id: request.id, machine, bosun: request.bosun }, options);
    const state: AgentState = {
      address,
      sharesPids,
      seccomp: agentDetails?.supportsSeccomp === true,
      sysctls: request.sysctls,
      createMs: request.createMs,
    };
    await writeFile(`${stateFile(machine)}.new`, JSON.stringify(state));
    await rename(`${stateFile(machine)}.new`, stateFile(machine));
    return opened(machine, state, client, agentDetails, warn);
  } catch (error) {
    client.close();
    throw error;
  }
}

/** Of an earlier daemon. Undefined: this machine's guest is berth's own. Rejects with VmError Guest where the agent does not answer. */
export async function findAgentSandbox(
  machine: string,
  { timeoutMs, signal, warn }: AgentSandboxOptions,
): Promise<AgentSandbox | undefined> {
  const state = await readState(machine);
  if (!state) return undefined;
  const client = await AgentClient.connect(state.address, { timeoutMs, signal });
  return opened(machine, state, client, undefined, warn);
}

async function readState(machine: string): Promise<AgentState | undefined> {
  try {
    return JSON.parse(await readFile(stateFile(machine), "utf8")) as AgentState;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
}

function opened(
  machine: string,
  { seccomp, sharesPids, sysctls, createMs }: AgentState,
  client: AgentClient,
  details: agent.AgentDetails | undefined,
  warn: (message: string) => void,
): AgentSandbox {
  const closing = new AbortController();
  void followOoms(client, machine, warn);
  return {
    client,
    runtime: agentRuntime({ client, directory: machine, seccomp, sharesPids, sysctls, createMs }),
    details,
    lost: followHealth(client, closing.signal),
    close: () => {
      closing.abort();
      client.close();
    },
  };
}

function moduleOf(text: string): { name: string; parameters: string[] } {
  const [name = "", ...parameters] = text.trim().split(/\s+/);
  if (name === "") throw new VmError("InvalidConfiguration", "kernel_modules: an empty name");
  return { name, parameters };
}
