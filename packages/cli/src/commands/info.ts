import type { Command } from "commander";
import type { berth, cri } from "@berth/spec";
import { EXIT } from "../failure.ts";
import { printJson } from "../json.ts";
import type { Session } from "../session.ts";
import { printLine, warn } from "../shell.ts";
import { printable } from "../table.ts";
import { VERSION } from "../version.ts";

const HELP = `
--json prints: clientVersion, address, version, root, state, logRoot, snapshotter, cgroupMode, kernel, nodeVersion, pid, pods,
containers, images, handlers, conditions (type, status, reason, message), warnings.
Exit code: 1 if berthd says that it is not ready.`;

export function define(command: Command, session: Session): void {
  command
    .usage("[options]")
    .option("--json", "print JSON, for scripts")
    .addHelpText("after", HELP)
    .action(({ json }: { json?: boolean }) => info(session, json === true));
}

async function info(session: Session, json: boolean): Promise<void> {
  const client = await session.connect();
  const [daemon, { status }] = await Promise.all([client.berth.info({}), client.runtime.status({})]);
  const conditions = status?.conditions ?? [];
  if (json) printJson(session.shell, infoJson(session, daemon, conditions));
  else print(session, daemon, conditions);
  if (conditions.some((condition) => !condition.status)) session.exitCode = EXIT.failure;
}

function infoJson(session: Session, daemon: berth.InfoResponse, conditions: readonly cri.RuntimeCondition[]): object {
  const { $typeName: _typeName, $unknown: _unknown, ...fields } = daemon;
  return {
    clientVersion: VERSION,
    address: session.address,
    ...fields,
    conditions: conditions.map(({ type, status, reason, message }) => ({ type, status, reason, message })),
  };
}

function print(session: Session, daemon: berth.InfoResponse, conditions: readonly cri.RuntimeCondition[]): void {
  const lines: readonly (readonly [string, string])[] = [
    ["Client", `berth ${VERSION}`],
    ["Server", `berthd ${daemon.version}, pid ${daemon.pid}, at ${session.address}`],
    ["Pods", String(daemon.pods)],
    ["Containers", String(daemon.containers)],
    ["Images", String(daemon.images)],
    ["Handlers", ["(default)", ...daemon.handlers].join(", ")],
    ["Snapshotter", daemon.snapshotter],
    ["cgroups", daemon.cgroupMode],
    ["Kernel", daemon.kernel],
    ["Node", daemon.nodeVersion],
    ["Root", daemon.root],
    ["State", daemon.state],
    ["Logs", daemon.logRoot],
    ...conditions.map(({ type, status, reason, message }): [string, string] => [
      type,
      status ? "yes" : `no: ${[reason, message].filter((part) => part !== "").join(": ")}`,
    ]),
  ];
  const width = Math.max(...lines.map(([title]) => title.length));
  for (const [title, value] of lines) printLine(session.shell, `${`${title}:`.padEnd(width + 2)}${printable(value)}`);
  for (const warning of daemon.warnings) warn(session.shell, `warning: ${warning}`);
}
