/** Containers as `berth ps` lists them, and what scripts get of them. */
import { cri } from "@berth/spec";
import { ANNOTATION, recordedList } from "./annotations.ts";
import { CODE, failedWith } from "./call-error.ts";
import type { Client } from "./client.ts";
import { containerName } from "./names.ts";
import { ago, humanDuration, millisecondsOf, rfc3339 } from "./units.ts";

const { ContainerState } = cri;

const STATES: Readonly<Record<number, string>> = {
  [ContainerState.CONTAINER_CREATED]: "created",
  [ContainerState.CONTAINER_RUNNING]: "running",
  [ContainerState.CONTAINER_EXITED]: "exited",
  [ContainerState.CONTAINER_UNKNOWN]: "unknown",
};

export const stateName = (state: cri.ContainerState): string => STATES[state] ?? "unknown";

/** A container of `berth ps --json`. The field names are stable. */
export interface ContainerJson {
  readonly id: string;
  readonly podId: string;
  readonly name: string;
  readonly image: string;
  readonly imageId: string;
  readonly command: readonly string[];
  readonly state: string;
  /** "Up 3 minutes", "Exited (0) 2 hours ago". */
  readonly status: string;
  readonly exitCode: number | null;
  readonly createdAt: string | null;
  readonly startedAt: string | null;
  readonly finishedAt: string | null;
  readonly ports: readonly string[];
  readonly labels: Readonly<Record<string, string>>;
}

export function containerJson(container: cri.Container, status: cri.ContainerStatus, now: number): ContainerJson {
  const ended = status.state === ContainerState.CONTAINER_EXITED;
  return {
    id: container.id,
    podId: container.podSandboxId,
    name: containerName(container),
    image: imageOf(container),
    imageId: container.imageId || container.imageRef,
    command: recordedList(container.annotations, ANNOTATION.command),
    state: stateName(status.state),
    status: statusWords(status, now),
    exitCode: ended ? status.exitCode : null,
    createdAt: rfc3339(container.createdAt) ?? null,
    startedAt: rfc3339(status.startedAt) ?? null,
    finishedAt: rfc3339(status.finishedAt) ?? null,
    ports: recordedList(container.annotations, ANNOTATION.ports),
    labels: container.labels,
  };
}

export const imageOf = ({ image, imageRef }: cri.Container): string =>
  image?.userSpecifiedImage || image?.image || imageRef;

export function statusWords(
  { state, startedAt, finishedAt, exitCode, reason }: cri.ContainerStatus,
  now: number,
): string {
  if (state === ContainerState.CONTAINER_RUNNING) return `Up ${humanDuration(now - millisecondsOf(startedAt))}`;
  if (state === ContainerState.CONTAINER_CREATED) return "Created";
  if (state === ContainerState.CONTAINER_UNKNOWN) return "Unknown";
  return `Exited (${exitCode}${reason === "OOMKilled" ? ", out of memory" : ""}) ${ago(finishedAt, now)}`.trimEnd();
}

/** Each with its status; one that is removed meanwhile is left out. Newest first. */
export async function withStatus(
  client: Client,
  containers: readonly cri.Container[],
): Promise<{ container: cri.Container; status: cri.ContainerStatus }[]> {
  const all = await Promise.all(
    containers.map(async (container) => ({ container, status: await statusOf(client, container.id) })),
  );
  return all.flatMap(({ container, status }) => (status ? [{ container, status }] : []));
}

async function statusOf(client: Client, containerId: string): Promise<cri.ContainerStatus | undefined> {
  try {
    return (await client.runtime.containerStatus({ containerId })).status;
  } catch (error) {
    if (failedWith(error, CODE.notFound)) return undefined;
    throw error;
  }
}

export const newestFirst = <T extends { readonly createdAt: bigint; readonly id: string }>(items: readonly T[]): T[] =>
  items.toSorted((a, b) =>
    a.createdAt === b.createdAt ? a.id.localeCompare(b.id) : a.createdAt < b.createdAt ? 1 : -1,
  );
