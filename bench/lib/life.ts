/** A pod up and down, as the kubelet asks for it. */
import { cri } from "@berth/spec";
import type { Client } from "@berth/cli";
import type { Peer } from "./peers.ts";

/** Ends at once on TERM, as a well-behaved server does. */
const COMMAND = ["/bin/sh", "-c", "trap 'exit 0' TERM; while :; do sleep 1000 & wait; done"];

type Times = Record<string, number[]>;
let serial = 0;

export interface Subject {
  readonly peer: Peer;
  readonly client: Client;
  readonly times: Times;
}

export async function timed<T>(subject: Subject, call: string, work: Promise<T>): Promise<T> {
  const before = performance.now();
  const result = await work;
  (subject.times[call] ??= []).push(performance.now() - before);
  return result;
}

/** CONTAINER is what the kubelet asks for unless a pod shares its PID namespace. */
export const sandboxConfig = () => ({
  metadata: { name: `bench-${++serial}`, namespace: "bench", uid: `uid-${serial}`, attempt: 0 },
  hostname: "bench",
  linux: { securityContext: { namespaceOptions: { pid: cri.NamespaceMode.CONTAINER } } },
});
type SandboxConfig = ReturnType<typeof sandboxConfig>;

export async function up(
  subject: Subject,
  config: SandboxConfig,
  measure = true,
): Promise<{ pod: string; container: string }> {
  const { runtime } = subject.client;
  const maybe = <T>(call: string, work: Promise<T>): Promise<T> => (measure ? timed(subject, call, work) : work);
  const { podSandboxId: pod } = await maybe("RunPodSandbox", runtime.runPodSandbox({ config }));
  const container = {
    metadata: { name: "main", attempt: 0 },
    image: { image: subject.peer.image },
    command: COMMAND,
    linux: {
      securityContext: {
        namespaceOptions: { pid: cri.NamespaceMode.CONTAINER },
        seccomp: { profileType: cri.SecurityProfile_ProfileType.RuntimeDefault },
      },
    },
  };
  const { containerId } = await maybe(
    "CreateContainer",
    runtime.createContainer({ podSandboxId: pod, config: container, sandboxConfig: config }),
  );
  await maybe("StartContainer", runtime.startContainer({ containerId }));
  return { pod, container: containerId };
}

export async function down(subject: Subject, pod: string, containerId: string, measure = true): Promise<void> {
  const { runtime } = subject.client;
  const maybe = <T>(call: string, work: Promise<T>): Promise<T> => (measure ? timed(subject, call, work) : work);
  if (measure) {
    await maybe("StopContainer", runtime.stopContainer({ containerId, timeout: 10n }));
    await maybe("RemoveContainer", runtime.removeContainer({ containerId }));
  }
  await maybe("StopPodSandbox", runtime.stopPodSandbox({ podSandboxId: pod }));
  await maybe("RemovePodSandbox", runtime.removePodSandbox({ podSandboxId: pod }));
}

/** All of them, so many at once. */
export async function inParallel<T, R>(
  items: readonly T[],
  width: number,
  work: (item: T) => Promise<R>,
): Promise<R[]> {
  const results: R[] = [];
  const queue = [...items.entries()];
  await Promise.all(
    Array.from({ length: width }, async () => {
      for (let next = queue.shift(); next; next = queue.shift()) results[next[0]] = await work(next[1]);
    }),
  );
  return results;
}
