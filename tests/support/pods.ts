/** Pods and containers as tests make them. */
import { mkdirSync } from "node:fs";
import type { MessageInitShape } from "@bufbuild/protobuf";
import { cri } from "@berth/spec";
import { IMAGE, type TestDaemon } from "./daemon.ts";

type Plain<T> = Exclude<T, { $typeName: string }>;
type SandboxInit = Plain<MessageInitShape<typeof cri.PodSandboxConfigSchema>>;
type ContainerInit = Plain<MessageInitShape<typeof cri.ContainerConfigSchema>>;

/** A berthd, however it was started. */
export type Served = Pick<TestDaemon, "client" | "dir">;

let serial = 0;

/** As the kubelet asks for, unless a pod shares its PID namespace. */
export const OWN_PID = { namespaceOptions: { pid: cri.NamespaceMode.CONTAINER } };

export function sandboxConfig(daemon: Served, more: SandboxInit = {}): SandboxInit {
  const name = `pod-${++serial}`;
  const logDirectory = `${daemon.dir}/logs/${name}`;
  mkdirSync(logDirectory, { recursive: true });
  return {
    metadata: { name, namespace: "test", uid: `uid-${serial}`, attempt: 0 },
    hostname: name,
    logDirectory,
    linux: { securityContext: OWN_PID },
    ...more,
  };
}

export async function runPod(
  daemon: Served,
  more: SandboxInit = {},
  runtimeHandler = "",
): Promise<{ id: string; config: SandboxInit }> {
  const config = sandboxConfig(daemon, more);
  const { podSandboxId: id } = await daemon.client.runtime.runPodSandbox({ config, runtimeHandler });
  return { id, config };
}

export const containerConfig = (script: string, more: ContainerInit = {}): ContainerInit => ({
  metadata: { name: `container-${++serial}`, attempt: 0 },
  image: { image: IMAGE },
  command: ["/bin/sh", "-c", script],
  logPath: `container-${serial}.log`,
  linux: { securityContext: OWN_PID },
  ...more,
});

export async function createContainer(
  daemon: Served,
  pod: { id: string; config: SandboxInit },
  script: string,
  more: ContainerInit = {},
): Promise<string> {
  const { containerId } = await daemon.client.runtime.createContainer({
    podSandboxId: pod.id,
    config: containerConfig(script, more),
    sandboxConfig: pod.config,
  });
  return containerId;
}

export async function startContainer(
  daemon: Served,
  pod: { id: string; config: SandboxInit },
  script: string,
  more: ContainerInit = {},
): Promise<string> {
  const containerId = await createContainer(daemon, pod, script, more);
  await daemon.client.runtime.startContainer({ containerId });
  return containerId;
}

export const status = async (daemon: Served, containerId: string) => {
  const { status: found } = await daemon.client.runtime.containerStatus({ containerId });
  if (!found) throw new Error("ContainerStatus answered without a status");
  return found;
};

export const sh = async (daemon: Served, containerId: string, script: string): Promise<string> => {
  const { stdout, stderr, exitCode } = await daemon.client.runtime.execSync({
    containerId,
    cmd: ["/bin/sh", "-c", script],
    timeout: 30n,
  });
  if (exitCode !== 0) throw new Error(`${script} ended with ${exitCode}: ${Buffer.from(stderr).toString()}`);
  return Buffer.from(stdout).toString();
};

/** The container's log when its process has ended; the CRI has no call to wait, so the status is asked until it says so. */
export async function exited(daemon: Served, containerId: string): Promise<Awaited<ReturnType<typeof status>>> {
  const EXITED = 2;
  for (const end = Date.now() + 30_000; ;) {
    const now = await status(daemon, containerId);
    if (now.state === EXITED) return now;
    if (Date.now() > end) throw new Error(`container ${containerId} has not exited within 30 s`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/** Everything that a stream sends before it ends. */
export async function collect<T>(stream: AsyncIterable<T>): Promise<T[]> {
  const all: T[] = [];
  for await (const message of stream) all.push(message);
  return all;
}
