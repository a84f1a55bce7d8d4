/** From what a person types (a name, an id, the beginning of an id) to the container, pod or image that is meant. */
import type { cri } from "@berth/spec";
import type { Client } from "./client.ts";
import { NAME_LABEL } from "./annotations.ts";
import { Failure } from "./failure.ts";
import { shortId } from "./ids.ts";

/** Labels that the kubelet writes. */
const KUBERNETES = {
  namespace: "io.kubernetes.pod.namespace",
  pod: "io.kubernetes.pod.name",
  container: "io.kubernetes.container.name",
} as const;

interface Named {
  readonly id: string;
  readonly metadata?: { readonly name: string } | undefined;
  readonly labels: Readonly<Record<string, string>>;
}

/** The name shown: what `berth run --name` gave, "pod/container" for the kubelet's, else what its maker called it. */
export function containerName({ labels, metadata }: Omit<Named, "id">): string {
  const pod = labels[KUBERNETES.pod];
  const own = metadata?.name ?? "";
  return labels[NAME_LABEL] ?? (pod === undefined ? own : `${pod}/${labels[KUBERNETES.container] ?? own}`);
}

export const podName = ({ labels, metadata }: Omit<Named, "id">): string => labels[NAME_LABEL] ?? metadata?.name ?? "";

/** Whether `berth run` made it, and so its pod goes when the container goes. */
export const isRunMade = ({ labels }: Pick<Named, "labels">): boolean => labels[NAME_LABEL] !== undefined;

const MOST_LISTED = 10;

/**
 * Full id, then name, then unique beginning of an id: docker's order. `kind` and `list` are for messages: "container", "berth ps -a".
 * Throws Failure where nothing, or more than one, is meant.
 */
export function pick<T extends Named>(
  items: readonly T[],
  text: string,
  kind: string,
  list: string,
  nameOf: (item: T) => readonly string[],
): T {
  if (text === "") throw new Failure(`an empty string names no ${kind}; see "${list}"`);
  const exact = items.find(({ id }) => id === text);
  if (exact) return exact;
  const named = items.filter((item) => nameOf(item).includes(text));
  const found = named.length > 0 ? named : items.filter(({ id }) => id.startsWith(text));
  const [only, another] = found;
  if (only && !another) return only;
  if (!only) throw new Failure(`no such ${kind}: "${text}"; see "${list}"`);
  const shown = found.slice(0, MOST_LISTED).map((item) => `${shortId(item.id)} (${nameOf(item)[0] ?? ""})`);
  const rest = found.length > shown.length ? ` and ${found.length - shown.length} more` : "";
  throw new Failure(
    `"${text}" could be any of ${found.length} ${kind}s: ${shown.join(", ")}${rest}; give more of the id`,
  );
}

export async function findContainer(client: Client, text: string): Promise<cri.Container> {
  const { containers } = await client.runtime.listContainers({});
  return pickContainer(containers, text);
}

export const pickContainer = (containers: readonly cri.Container[], text: string): cri.Container =>
  pick(containers, text, "container", "berth ps -a", (container) => [
    containerName(container),
    container.metadata?.name ?? "",
  ]);

export async function findPod(client: Client, text: string): Promise<cri.PodSandbox> {
  const { items } = await client.runtime.listPodSandbox({});
  return pickPod(items, text);
}

export const pickPod = (pods: readonly cri.PodSandbox[], text: string): cri.PodSandbox =>
  pick(pods, text, "pod", "berth pods", (pod) => [
    podName(pod),
    pod.metadata?.name ?? "",
    `${pod.metadata?.namespace ?? ""}/${pod.metadata?.name ?? ""}`,
  ]);
