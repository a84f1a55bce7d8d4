/** exec: a further process in a container, from the command line or from a process.json. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { readHost, type Order } from "@berth/kernel";
import { oci } from "@berth/spec/oci";
import type { Command, CommandContext } from "../command/context.ts";
import { checkTerminal, listenFds, writePidFile } from "../command/creation.ts";
import { CommandError } from "../command/failure.ts";
import type { Flags } from "../command/flags.ts";
import { logMade, logPlan, logReleased } from "../command/milestones.ts";
import { launchFailure, START_PREFIX } from "../command/order-failure.ts";
import { cgroupsOf } from "../command/rootless.ts";
import { seccompFilter } from "../command/seccomp.ts";
import type { Planned } from "../context.ts";
import { planExec } from "../exec.ts";
import type { ContainerRecord } from "../state/record.ts";
import { statusOf } from "../state/status.ts";

export const command: Command = {
  async run(context) {
    const { args, flags, states } = context;
    const record = states.read(args[0] ?? "");
    const status = statusOf(record, states);
    if (status === "stopped") throw new CommandError("cannot exec in a stopped container");
    if (status === "paused" && !flags.boolean("ignore-paused"))
      throw new CommandError("cannot exec in a paused container (use --ignore-paused to override)");
    const process = flags.has("process")
      ? processOfFile(flags.text("process"))
      : processOfFlags(record.berth.spec, flags, args.slice(1));
    if ((process.args ?? []).length === 0)
      throw new CommandError(flags.has("process") ? "args must not be empty" : "exec args cannot be empty");
    if (!process.cwd.startsWith("/")) throw new CommandError("Cwd must be an absolute path");
    checkTerminal(context, process.terminal === true, flags.boolean("detach"));
    return await execute(context, record, process);
  },
};

async function execute(context: CommandContext, record: ContainerRecord, process: oci.Process): Promise<undefined> {
  const { flags, log } = context;
  const detached = flags.boolean("detach");
  const terminal = process.terminal === true;
  const keep = flags.number("preserve-fds") + listenFds();
  const { plan, warnings } = await planOf(context, record, process, keep);
  for (const warning of warnings) log.warning(warning);
  logPlan(log, plan);
  const front = await context.front();
  try {
    const { pid } = front.launch({
      plan,
      terminal,
      stdio: detached ? "inherit" : "relay",
      consoleSocket: flags.text("console-socket") || undefined,
      pidfdSocket: flags.has("pidfd-socket") ? { path: flags.text("pidfd-socket"), name: "setns" } : undefined,
      keep,
      subreaper: !detached,
    });
    logMade(log, pid);
    logReleased(log, "exec");
    if (flags.has("pid-file")) writePidFile(flags.text("pid-file"), pid);
  } catch (error) {
    front.abandon();
    throw launchFailure(error, record.berth.spec);
  }
  if (!detached) front.attend({ orders: [] });
  return undefined;
}

async function planOf(
  { flags, log }: CommandContext,
  record: ContainerRecord,
  process: oci.Process,
  preserveFds: number,
): Promise<Planned> {
  const { spec, cgroup, bundle, noNewKeyring } = record.berth;
  const host = readHost();
  const seccomp = await seccompFilter(spec.linux?.seccomp, log);
  const planned = planExec({ pid: record.init_process_pid, spec, cgroup: { path: cgroup } }, process, {
    host: cgroupsOf(record, host),
    seccomp,
    terminal: process.terminal === true,
    preserveFds,
    checksProgram: true,
    id: record.id,
    bundle,
    noNewKeyring,
  });
  const cgroups = flags.texts("cgroup");
  return cgroups.length === 0
    ? planned
    : { ...planned, plan: { orders: inSubCgroups(planned.plan.orders, record, cgroups) } };
}

function processOfFile(path: string): oci.Process {
  const process = oci.parseSpec(readFileSync(path, "utf8")) as unknown as oci.Process;
  if (process.cwd === "" || (process.cwd as string | undefined) === undefined)
    throw new CommandError("Cwd property must not be empty");
  return { ...process, user: { ...ROOT, ...(process.user as oci.User | undefined) } };
}

function processOfFlags(spec: oci.Spec, flags: Flags, args: readonly string[]): oci.Process {
  const own = spec.process;
  if (own === undefined) throw new CommandError("the container's configuration has no process: use --process");
  const { capabilities } = own;
  const added = flags.texts("cap");
  const more = (set: readonly string[] = []) => [...new Set([...set, ...added])];
  return {
    ...own,
    args,
    env: [...(own.env ?? []), ...flags.texts("env")],
    terminal: flags.boolean("tty"),
    user: userOf(own.user, flags),
    // Empty ones are as good as none, as in runc.
    ...(flags.text("cwd") === "" ? {} : { cwd: flags.text("cwd") }),
    ...(flags.text("apparmor") === "" ? {} : { apparmorProfile: flags.text("apparmor") }),
    ...(flags.text("process-label") === "" ? {} : { selinuxLabel: flags.text("process-label") }),
    ...(flags.has("no-new-privs") ? { noNewPrivileges: flags.boolean("no-new-privs") } : {}),
    ...(added.length === 0
      ? {}
      : {
          // Not the inheritable set (CVE-2022-29162), and so the ambient one only where there is an inheritable one already.
          capabilities: {
            ...capabilities,
            bounding: more(capabilities?.bounding),
            effective: more(capabilities?.effective),
            permitted: more(capabilities?.permitted),
            ...(capabilities?.inheritable === undefined ? {} : { ambient: more(capabilities.ambient) }),
          },
        }),
  };
}

/** "": the container's own. */
function userOf(own: oci.User, flags: Flags): oci.User {
  const [, uids = "", gids] = /^([^:]*)(?::(.*))?$/s.exec(flags.text("user")) ?? [];
  const gid = gids === undefined ? own.gid : idOf("gid", gids);
  const user = flags.text("user") === "" ? own : { ...own, gid, uid: idOf("uid", uids) };
  const groups = flags.texts("additional-gids");
  if (groups.length === 0) return user;
  const numbers = groups.map((text) => {
    if (text.startsWith("-")) throw new CommandError(`additional-gids must be a positive number ${text}`);
    return idOf("additional-gids", text);
  });
  return { ...user, additionalGids: [...(user.additionalGids ?? []), ...numbers] };
}

/** Strictly a number: a name or a stray sign must not become another user (CVE-2026-30892 of crun; runc cuts off what is beyond 32 bits). */
function idOf(kind: string, text: string): number {
  if (!/^[+-]?\d+$/.test(text))
    throw new CommandError(`bad ${kind}: strconv.Atoi: parsing ${JSON.stringify(text)}: invalid syntax`);
  if (!/^\d+$/.test(text) || Number(text) > MAX_ID)
    throw new CommandError(`bad ${kind}: ${text} is not a number below 4294967295`);
  return Number(text);
}

const ROOT: oci.User = { uid: 0, gid: 0 };
const MAX_ID = 0xffff_fffe;

/** The same orders with other cgroups: those of `[controller,…:]path`, below the container's. */
function inSubCgroups(orders: readonly Order[], record: ContainerRecord, given: readonly string[]): Order[] {
  const moved = new Map<string, string>();
  for (const text of given) {
    const colon = text.indexOf(":");
    const path = text.slice(colon + 1);
    if (path.split("/").includes(".."))
      throw new CommandError(`${START_PREFIX}error adding pid 0 to cgroups: bad sub cgroup path: ${path}`);
    const names = colon < 0 ? Object.keys(record.cgroup_paths) : text.slice(0, colon).split(",");
    for (const name of names) {
      const directory = record.cgroup_paths[name];
      if (directory === undefined)
        throw new CommandError(`${START_PREFIX}unknown controller ${name} in SubCgroupPaths`);
      moved.set(directory, join(directory, path));
    }
  }
  return orders.map((order) => {
    if (order.order !== "join_cgroup" && order.order !== "open" && order.order !== "write_file") return order;
    const { path } = order.args;
    const other = typeof path === "string" ? (moved.get(path) ?? inDirectory(moved, path)) : undefined;
    return other === undefined ? order : ({ ...order, args: { ...order.args, path: other } } as Order);
  });
}

/** cgroup.procs of a directory that is moved. */
function inDirectory(moved: ReadonlyMap<string, string>, path: string): string | undefined {
  const at = path.lastIndexOf("/");
  const other = moved.get(path.slice(0, at));
  return other === undefined ? undefined : other + path.slice(at);
}
