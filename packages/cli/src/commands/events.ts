import type { Command } from "commander";
import { cri } from "@berth/spec";
import { CODE, failedWith } from "../call-error.ts";
import { containerName, podName } from "../names.ts";
import { shortId } from "../ids.ts";
import type { Session } from "../session.ts";
import { printLine } from "../shell.ts";
import { interruptible } from "../interrupt.ts";
import { printable } from "../table.ts";
import { rfc3339 } from "../units.ts";

const HELP = `
Prints what happens to containers and pods as it happens, until Ctrl-C; first, what nobody has been told of the last five minutes.
--json prints a line of JSON each: time, type, id, name, podId, pod, namespace, exitCode, reason.`;

export function define(command: Command, session: Session): void {
  command
    .usage("[options]")
    .option("--json", "a line of JSON each, for scripts")
    .addHelpText("after", HELP)
    .action(({ json }: { json?: boolean }) => events(session, json === true));
}

const KINDS: Readonly<Record<cri.ContainerEventType, string>> = {
  [cri.ContainerEventType.CONTAINER_CREATED_EVENT]: "create",
  [cri.ContainerEventType.CONTAINER_STARTED_EVENT]: "start",
  [cri.ContainerEventType.CONTAINER_STOPPED_EVENT]: "stop",
  [cri.ContainerEventType.CONTAINER_DELETED_EVENT]: "delete",
};

async function events(session: Session, json: boolean): Promise<void> {
  const { shell } = session;
  const client = await session.connect();
  using interrupt = interruptible(shell);
  try {
    for await (const event of client.runtime.getContainerEvents({}, { signal: interrupt.signal }))
      printLine(shell, json ? JSON.stringify(eventJson(event)) : eventText(event));
  } catch (error) {
    // Ctrl-C is the ordinary end of it.
    if (!interrupt.signal.aborted && !failedWith(error, CODE.cancelled)) throw error;
  }
}

interface Seen {
  readonly name: string;
  readonly pod: string;
  readonly status: cri.ContainerStatus | undefined;
}

/** The pod's own events have its id where a container's would be. */
function seen({ containerId, podSandboxStatus, containersStatuses }: cri.ContainerEventResponse): Seen {
  const status = containersStatuses.find(({ id }) => id === containerId);
  const pod = podSandboxStatus ? podName(podSandboxStatus) : "";
  return { name: status ? containerName(status) : containerId === podSandboxStatus?.id ? pod : "", pod, status };
}

function eventText(event: cri.ContainerEventResponse): string {
  const { name, pod, status } = seen(event);
  const kind = KINDS[event.containerEventType];
  const isPod = event.containerId === event.podSandboxStatus?.id;
  const ended = kind === "stop" && status ? `, exitCode=${status.exitCode}, reason=${status.reason}` : "";
  const details = `(name=${name}${isPod ? "" : `, pod=${pod}`}${ended})`;
  const at = rfc3339(event.createdAt) ?? "";
  return printable(`${at} ${isPod ? "pod" : "container"} ${kind} ${shortId(event.containerId)} ${details}`);
}

function eventJson(event: cri.ContainerEventResponse): object {
  const { name, pod, status } = seen(event);
  return {
    time: rfc3339(event.createdAt) ?? null,
    type: KINDS[event.containerEventType],
    id: event.containerId,
    name,
    podId: event.podSandboxStatus?.id ?? "",
    pod,
    namespace: event.podSandboxStatus?.metadata?.namespace ?? "",
    exitCode: status?.exitCode ?? 0,
    reason: status?.reason ?? "",
  };
}
