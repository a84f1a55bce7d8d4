/** checkpoint: by CRIU. Where CRIU cannot work on this machine that is said first, and nothing is touched. */
import { mkdirSync } from "node:fs";
import { probeHost } from "@berth/kernel";
import type { Command, CommandContext } from "../command/context.ts";
import {
  checkCriu,
  checkFeatures,
  commonFlags,
  criuFailure,
  logRequest,
  pageServer,
  parentPath,
  pathsOf,
  statusFile,
  type Paths,
} from "../command/criu.ts";
import { CommandError } from "../command/failure.ts";
import type { Flags } from "../command/flags.ts";
import { descriptorsOf, writeDescriptors } from "../criu/descriptors.ts";
import { cgroupsMode } from "../criu/options.ts";
import { DUMP_LOG, planDump, type DumpOptions } from "../criu/dump.ts";
import type { ContainerRecord } from "../state/record.ts";
import { statusOf } from "../state/status.ts";

export const command: Command = {
  async run(context) {
    const { args, states, flags, log } = context;
    const record = states.read(args[0] ?? "");
    const status = statusOf(record, states);
    if (status === "created" || status === "stopped")
      throw new CommandError(`Container cannot be checkpointed in ${status} state`);
    if (process.geteuid?.() !== 0) log.warning("berth-runc checkpoint is untested with rootless containers");
    const paths = pathsOf(flags);
    const options = dumpFlags(flags, paths.images);
    checkCriu();
    checkFeatures({ MemTrack: options.preDump === true, LazyPages: options.lazyPages === true });
    await dump(context, record, paths, options);
    if (options.leaveRunning === true || options.preDump === true) return 0;
    const { deleteContainer } = await import("./delete.ts");
    await deleteContainer(record, context);
    return 0;
  },
};

function dumpFlags(flags: Flags, images: string): DumpOptions {
  const common = commonFlags(flags);
  cgroupsMode(common.manageCgroupsMode);
  return {
    ...common,
    leaveRunning: flags.boolean("leave-running"),
    tcpSkipInFlight: flags.boolean("tcp-skip-in-flight"),
    linkRemap: flags.boolean("link-remap"),
    preDump: flags.boolean("pre-dump"),
    parentPath: parentPath(flags, images),
    pageServer: pageServer(flags.text("page-server")),
    statusFile: flags.boolean("lazy-pages") ? statusFile(flags) : undefined,
  };
}

async function dump(context: CommandContext, record: ContainerRecord, paths: Paths, options: DumpOptions) {
  const { spec, cgroup } = record.berth;
  const target = {
    pid: record.init_process_pid,
    spec,
    cgroup,
    freezer: record.cgroup_paths.freezer ?? record.cgroup_paths[""],
    rootfs: record.config.rootfs,
    host: await probeHost(),
  };
  const plan = await planDump(target, paths, options, environment());
  logRequest(plan, context.log);
  mkdirSync(paths.images, { recursive: true, mode: 0o700 });
  if (paths.work !== undefined) mkdirSync(paths.work, { recursive: true, mode: 0o700 });
  if (options.preDump !== true) await writeDescriptors(paths.images, await descriptors(record));
  try {
    (await context.front()).run(plan);
  } catch (error) {
    throw criuFailure(error, paths, DUMP_LOG, context.log);
  }
}

/** Of a container in the foreground they are pipes of whoever attends it, which only its process shows. */
async function descriptors(record: ContainerRecord): Promise<readonly string[]> {
  if (record.external_descriptors.length > 0) return record.external_descriptors;
  return await descriptorsOf(record.init_process_pid);
}

/** CRIU has the caller's environment, as any program that it starts. */
export function environment(): string[] {
  return Object.entries(process.env).flatMap(([name, value]) => (value === undefined ? [] : [`${name}=${value}`]));
}
