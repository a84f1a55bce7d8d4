import type { Command } from "commander";
import { cri } from "@berth/spec";
import { CODE, failedWith } from "../call-error.ts";
import type { Client } from "../client.ts";
import { newestFirst } from "../containers.ts";
import { hasLabel, parseFilters } from "../filters.ts";
import { shownId } from "../ids.ts";
import { type JsonOptions, printJson, wantsJson } from "../json.ts";
import { podName } from "../names.ts";
import type { Session } from "../session.ts";
import { printLine } from "../shell.ts";
import { formatTable } from "../table.ts";
import { ago, rfc3339 } from "../units.ts";

interface Flags extends JsonOptions {
  readonly quiet?: boolean;
  readonly trunc: boolean;
  readonly filter: readonly string[];
}

const HELP = `
Filters: id=, name= (part of it), namespace=, label=KEY[=VALUE], status=ready|notready.
--json prints a list of: id, name, namespace, uid, attempt, state, runtimeHandler, createdAt, ips, labels, annotations.`;

export function define(command: Command, session: Session): void {
  command
    .usage("[options]")
    .option("-q, --quiet", "ids only")
    .option("--no-trunc", "whole ids")
    .option(
      "-f, --filter <key=value>",
      "only some; may be repeated",
      (value: string, previous: readonly string[]) => [...previous, value],
      [],
    )
    .option("--json", "a JSON list, for scripts")
    .option("--format <format>", "json or table")
    .addHelpText("after", HELP)
    .action((flags: Flags) => pods(session, flags));
}

const stateName = (state: cri.PodSandboxState): string =>
  state === cri.PodSandboxState.SANDBOX_READY ? "ready" : "notready";

async function pods(session: Session, flags: Flags): Promise<void> {
  const { shell } = session;
  const json = wantsJson(flags);
  const matches = parseFilters<cri.PodSandbox>(flags.filter, {
    id: ({ id }, value) => id.startsWith(value),
    name: (pod, value) => podName(pod).includes(value),
    namespace: ({ metadata }, value) => metadata?.namespace === value,
    label: ({ labels }, value) => hasLabel(labels, value),
    status: ({ state }, value) => stateName(state) === value,
  });
  const client = await session.connect();
  const { items } = await client.runtime.listPodSandbox({});
  const chosen = newestFirst(items.filter(matches));
  if (flags.quiet && !json) return chosen.forEach(({ id }) => printLine(shell, shownId(id, !flags.trunc)));
  const rows = await Promise.all(chosen.map(async (pod) => ({ pod, ips: await ipsOf(client, pod.id) })));
  if (json) return printJson(shell, rows.map(podJson));
  const now = Date.now();
  shell.stdout.write(
    formatTable(
      [
        { title: "POD ID", value: ({ pod }) => shownId(pod.id, !flags.trunc) },
        { title: "CREATED", value: ({ pod }) => ago(pod.createdAt, now) },
        {
          title: "STATE",
          value: ({ pod }) => (pod.state === cri.PodSandboxState.SANDBOX_READY ? "Ready" : "NotReady"),
        },
        { title: "NAME", value: ({ pod }) => podName(pod) },
        { title: "NAMESPACE", value: ({ pod }) => pod.metadata?.namespace ?? "" },
        { title: "IP", value: ({ ips }) => ips.join(", ") },
        { title: "RUNTIME", value: ({ pod }) => pod.runtimeHandler || "(default)" },
      ],
      rows,
    ),
  );
}

/** None for a host-network pod, and for one that is removed meanwhile. */
async function ipsOf(client: Client, podSandboxId: string): Promise<string[]> {
  try {
    const { status } = await client.runtime.podSandboxStatus({ podSandboxId });
    const { ip = "", additionalIps = [] } = status?.network ?? {};
    return [ip, ...additionalIps.map((additional) => additional.ip)].filter((address) => address !== "");
  } catch (error) {
    if (failedWith(error, CODE.notFound)) return [];
    throw error;
  }
}

const podJson = ({ pod, ips }: { pod: cri.PodSandbox; ips: readonly string[] }): object => ({
  id: pod.id,
  name: podName(pod),
  namespace: pod.metadata?.namespace ?? "",
  uid: pod.metadata?.uid ?? "",
  attempt: pod.metadata?.attempt ?? 0,
  state: stateName(pod.state),
  runtimeHandler: pod.runtimeHandler,
  createdAt: rfc3339(pod.createdAt) ?? null,
  ips,
  labels: pod.labels,
  annotations: pod.annotations,
});
