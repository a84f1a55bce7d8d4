/** A node with many pods: what lists and statistics cost then, and how soon a daemon that was killed among them knows them again. */
import { setTimeout as sleep } from "node:timers/promises";
import { cri } from "@berth/spec";
import { connect } from "@berth/cli";
import { inParallel, sandboxConfig, type Subject, timed, up } from "./life.ts";

const WIDTH = 5;
const ROUNDS = 20;
/** ms between calls: those of a kubelet do not follow each other at once. */
const PAUSE = 5;

/** On the host's network, so that no plugin's time is in it; with the labels and annotations that a kubelet gives. */
const crowdedConfig = () => {
  const { metadata, linux } = sandboxConfig();
  const { namespaceOptions } = linux.securityContext;
  return {
    metadata,
    hostname: "",
    labels: {
      "io.kubernetes.pod.name": metadata.name,
      "io.kubernetes.pod.namespace": metadata.namespace,
      "io.kubernetes.pod.uid": metadata.uid,
    },
    annotations: {
      "kubernetes.io/config.seen": "2026-01-01T00:00:00.000000000Z",
      "kubernetes.io/config.source": "api",
    },
    linux: { securityContext: { namespaceOptions: { ...namespaceOptions, network: cri.NamespaceMode.NODE } } },
  };
};

export async function gather(subject: Subject, count: number): Promise<void> {
  await inParallel(Array.from({ length: count }, crowdedConfig), WIDTH, (config) => up(subject, config, false));
}

/** Each call's times go to the subject, under its name. */
export async function listAll(subject: Subject): Promise<void> {
  const { runtime } = subject.client;
  const { containers } = await runtime.listContainers({});
  const { items } = await runtime.listPodSandbox({});
  for (let round = 0; round < ROUNDS; round++) {
    const containerId = containers[round % containers.length]?.id ?? "";
    const podSandboxId = items[round % items.length]?.id ?? "";
    const calls: readonly [string, () => Promise<unknown>][] = [
      ["ListContainers", () => runtime.listContainers({})],
      ["ListPodSandbox", () => runtime.listPodSandbox({})],
      ["ListContainerStats", () => runtime.listContainerStats({})],
      ["ContainerStatus", () => runtime.containerStatus({ containerId })],
      ["PodSandboxStatus", () => runtime.podSandboxStatus({ podSandboxId })],
      ["ContainerStats", () => runtime.containerStats({ containerId })],
    ];
    for (const [name, call] of calls) {
      await sleep(PAUSE);
      await timed(subject, `${name}, ${containers.length}`, call());
    }
  }
}

/**
 * Kills the daemon with calls under way and starts it again: milliseconds from the new process's start to its first list, which must
 * say that all run.
 */
export async function recovery(subject: Subject): Promise<{ recovered: number; subject: Subject }> {
  const { peer, client } = subject;
  const { containers } = await client.runtime.listContainers({});
  const away = (work: Promise<unknown>): void => void work.catch(() => undefined);
  for (const { id } of containers.slice(0, WIDTH)) {
    away(client.runtime.listContainerStats({}));
    away(client.runtime.execSync({ containerId: id, cmd: ["/bin/sleep", "2"], timeout: 10n }));
  }
  await peer.service.stop("SIGKILL");
  client.close();
  const from = performance.now();
  await peer.restart();
  const again = { ...subject, client: connect(peer.socket) };
  const known = await firstList(again);
  const recovered = performance.now() - from;
  if (known !== containers.length)
    throw new Error(`${peer.name}: of ${containers.length} containers it knows ${known} to run`);
  return { recovered, subject: again };
}

/** How many it says to run, once it says anything: containerd listens before it has recovered, and refuses. */
async function firstList({ client }: Subject): Promise<number> {
  for (const end = Date.now() + GIVE_UP; ;) {
    try {
      const { containers } = await client.runtime.listContainers({ filter: { state: { state: RUNNING } } });
      return containers.length;
    } catch (error) {
      if (Date.now() > end) throw error;
      await sleep(PAUSE);
    }
  }
}
const RUNNING = cri.ContainerState.CONTAINER_RUNNING;
/** ms */
const GIVE_UP = 60_000;

export async function disperse({ client }: Subject): Promise<void> {
  const { items } = await client.runtime.listPodSandbox({});
  await inParallel(items, WIDTH, async ({ id }) => {
    await client.runtime.stopPodSandbox({ podSandboxId: id });
    await client.runtime.removePodSandbox({ podSandboxId: id });
  });
}
