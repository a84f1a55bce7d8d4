/**
 * The first container of a sandbox. The agent takes the PID namespace of the first as the one that containers share which want to, so
 * that is berth's own, of one process that waits and reaps. Its id is the sandbox's, by which the agent knows it.
 */
import { copyFile, mkdir } from "node:fs/promises";
import { join } from "node:path";
import { agent } from "@berth/spec/kata";
import { shareWritable } from "../sandbox/host.ts";
import type { AgentCallOptions, AgentClient } from "./client.ts";
import { AGENT_PLACES } from "./storage.ts";
import { agentSpec } from "./spec.ts";

const { method } = agent.AgentService;

export interface Infra {
  /** The sandbox's. */
  readonly id: string;
  /** The machine's directory. */
  readonly machine: string;
  /** The program, on the host: it goes into the share. */
  readonly bosun: string;
}

export async function startInfra(
  client: AgentClient,
  { id, machine, bosun }: Infra,
  options: AgentCallOptions,
): Promise<void> {
  const root = join(shareWritable(machine), id, "rootfs");
  for (const mountPoint of ["proc", "dev", "sys"])
    await mkdir(join(root, mountPoint), { recursive: true, mode: 0o755 });
  await copyFile(bosun, join(root, "pause"));
  const quiet = ["nosuid", "noexec", "nodev"];
  const OCI = agentSpec(
    {
      ociVersion: "1.0.2",
      root: { path: `${AGENT_PLACES.share}/${id}/rootfs`, readonly: true },
      process: {
        user: { uid: 0, gid: 0 },
        args: ["/pause", "pause"],
        env: ["PATH=/"],
        cwd: "/",
        noNewPrivileges: true,
      },
      mounts: [
        { destination: "/proc", type: "proc", source: "proc", options: quiet },
        { destination: "/dev", type: "tmpfs", source: "tmpfs", options: ["nosuid", "mode=755", "size=65536k"] },
        { destination: "/sys", type: "sysfs", source: "sysfs", options: [...quiet, "ro"] },
      ],
      linux: { namespaces: [{ type: "mount" }], resources: { cpu: { shares: 2 } } },
    },
    { cgroup: `/berth/${id}`, seccomp: false },
  );
  await client.call(method.createContainer, { containerId: id, execId: id, OCI, sandboxPidns: true }, options);
  await client.call(method.startContainer, { containerId: id }, options);
}
