import type { CommandSpec } from "../command.ts";
import { CrictlError, EMPTY_ID, UsageError, wrap } from "../errors.ts";
import { int, string } from "../flags.ts";

export const update: CommandSpec = {
  name: "update",
  usage: "Update one or more running containers",
  argsUsage: "CONTAINER-ID [CONTAINER-ID...]",
  flags: [
    int("cpu-count", "(Windows only) Number of CPUs available to the container"),
    int("cpu-maximum", "(Windows only) Portion of CPU cycles specified as a percentage * 100"),
    int("cpu-period", "CPU CFS period to be used for hardcapping (in usecs). 0 to use system default"),
    int("cpu-quota", "CPU CFS hardcap limit (in usecs). Allowed cpu time in a given period"),
    int("cpu-share", "CPU shares (relative weight vs. other containers)"),
    int("memory", "Memory limit (in bytes)"),
    string("cpuset-cpus", "CPU(s) to use"),
    string("cpuset-mems", "Memory node(s) to use"),
    string("oom-score-adj", "OOM Killer score to use"),
  ],
  async run(context) {
    const { flags } = context;
    if (flags.args.length === 0) throw new CrictlError(EMPTY_ID);
    const score = flags.string("oom-score-adj");
    if (!/^([+-]?\d+)?$/.test(score))
      throw new UsageError(`invalid value "${score}" for flag -oom-score-adj: parse error`);
    const runtime = await context.runtime();
    const big = (name: string): bigint => BigInt(flags.number(name));
    const linux = {
      cpuPeriod: big("cpu-period"),
      cpuQuota: big("cpu-quota"),
      cpuShares: big("cpu-share"),
      memoryLimitInBytes: big("memory"),
      oomScoreAdj: BigInt(score),
      cpusetCpus: flags.string("cpuset-cpus"),
      cpusetMems: flags.string("cpuset-mems"),
    };
    for (const containerId of flags.args) {
      await wrap(`updating container resources for ${JSON.stringify(containerId)}`, () =>
        runtime.updateContainerResources({ containerId, linux }),
      );
      context.print(containerId);
    }
  },
};
