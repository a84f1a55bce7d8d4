/** Which containers, pods and images a command is about. */
import { cri } from "@berth/spec";
import type { Context, Images, Runtime } from "./command.ts";
import { CrictlError } from "./errors.ts";
import { bool, type Flag, int, slice, string } from "./flags.ts";

export const POD_NAME_LABEL = "io.kubernetes.pod.name";
export const POD_NAMESPACE_LABEL = "io.kubernetes.pod.namespace";
const ID_LENGTH = 13;

export const truncated = (id: string, prefix = ""): string =>
  (prefix !== "" && id.startsWith(prefix) ? id.slice(prefix.length) : id).slice(0, ID_LENGTH);

export function parseLabels(labels: readonly string[]): Record<string, string> {
  const pairs = labels.map((label): [string, string] => {
    const [key = "", value, more] = label.split("=");
    if (value === undefined || more !== undefined) throw new CrictlError(`incorrectly specified label: ${label}`);
    return [key, value];
  });
  return Object.fromEntries(pairs);
}

function regex(pattern: string): (text: string) => boolean {
  if (pattern === "") return () => true;
  try {
    const compiled = new RegExp(pattern, "u");
    return (text) => compiled.test(text);
  } catch (error) {
    throw new CrictlError(`invalid regular expression ${JSON.stringify(pattern)}: ${(error as Error).message}`);
  }
}

/** The newest first; --latest is one, --last counts more than it. */
function newest<T extends { createdAt: bigint }>(items: readonly T[], { flags }: Context): T[] {
  const sorted = items.toSorted((a, b) => (a.createdAt < b.createdAt ? 1 : a.createdAt > b.createdAt ? -1 : 0));
  const last = flags.number("last");
  return sorted.slice(0, last > 0 ? last : flags.bool("latest") ? 1 : sorted.length);
}

const { CONTAINER_CREATED, CONTAINER_RUNNING, CONTAINER_EXITED, CONTAINER_UNKNOWN } = cri.ContainerState;
const CONTAINER_STATES: Readonly<Record<string, cri.ContainerState>> = {
  created: CONTAINER_CREATED,
  running: CONTAINER_RUNNING,
  exited: CONTAINER_EXITED,
  unknown: CONTAINER_UNKNOWN,
};
const POD_STATES: Readonly<Record<string, cri.PodSandboxState>> = {
  ready: cri.PodSandboxState.SANDBOX_READY,
  notready: cri.PodSandboxState.SANDBOX_NOTREADY,
};

export async function listContainers(
  context: Context,
  runtime: Runtime,
  images: Images | undefined,
): Promise<cri.Container[]> {
  const { flags } = context;
  const said = flags.string("state");
  const state =
    said === "" ? (flags.bool("all") ? undefined : CONTAINER_STATES["running"]) : CONTAINER_STATES[said.toLowerCase()];
  if (said !== "" && state === undefined)
    throw new CrictlError("--state should be one of created, running, exited or unknown");
  const any = flags.bool("latest") || flags.number("last") > 0;
  const filter = {
    id: flags.string("id"),
    podSandboxId: flags.string("pod"),
    labelSelector: parseLabels(flags.slice("label")),
    ...(state !== undefined && !any && { state: { state } }),
  };
  const [name, namespace] = [regex(flags.string("name")), regex(flags.string("namespace"))];
  const { containers } = await runtime.listContainers({ filter });
  const chosen: cri.Container[] = [];
  for (const container of containers) {
    if (!(await isOf(images, flags.string("image"), container.image?.image ?? ""))) continue;
    const podNamespace = container.labels[POD_NAMESPACE_LABEL] ?? "unknown";
    if (container.metadata && name(container.metadata.name) && namespace(podNamespace)) chosen.push(container);
  }
  return newest(chosen, context);
}

async function isOf(images: Images | undefined, wanted: string, image: string): Promise<boolean> {
  if (wanted === "" || !images) return true;
  const [a, b] = [
    await images.imageStatus({ image: { image: wanted } }),
    await images.imageStatus({ image: { image } }),
  ];
  return a.image !== undefined && a.image.id === b.image?.id;
}

export async function listPods(context: Context, runtime: Runtime): Promise<cri.PodSandbox[]> {
  const { flags } = context;
  const said = flags.string("state");
  const state = POD_STATES[said.toLowerCase()];
  if (said !== "" && state === undefined) throw new CrictlError("--state should be ready or notready");
  const filter = {
    id: flags.string("id"),
    labelSelector: parseLabels(flags.slice("label")),
    ...(state !== undefined && { state: { state } }),
  };
  const [name, namespace] = [regex(flags.string("name")), regex(flags.string("namespace"))];
  const { items } = await runtime.listPodSandbox({ filter });
  return newest(
    items.filter(({ metadata }) => metadata && name(metadata.name) && namespace(metadata.namespace)),
    context,
  );
}

/** The flags that say which containers, where a command takes them beside ids. */
export const CONTAINER_FILTERS: readonly Flag[] = [
  string("name", "Filter by container name regular expression pattern"),
  string("namespace", "Filter by pod namespace regular expression pattern"),
  string("pod", "Filter by pod id", { aliases: ["p"] }),
  string("image", "Filter by container image"),
  string("state", "Filter by container state", { aliases: ["s"] }),
  slice("label", "Filter by key=value label"),
  bool("latest", "Show the most recently created container (includes all states)", { aliases: ["l"] }),
  int("last", "Show last n recently created containers (includes all states). Set 0 for unlimited.", {
    aliases: ["n"],
  }),
  bool("all", "Show all containers", { aliases: ["a"] }),
];
