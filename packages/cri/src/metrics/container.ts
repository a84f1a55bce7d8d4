/** One container's metrics, from its cgroup, its processes and its writable layer. */
import { statfs } from "node:fs/promises";
import type { CgroupDetail, CgroupStats, Pressure, ProcessTally } from "@berth/kernel";
import type { cri } from "@berth/spec";
import { now } from "../clock.ts";
import { cgroupStatsOf } from "../container/stats.ts";
import type { CriContext } from "../context.ts";
import type { Container, ContainerRecord, Sandbox } from "../store/records.ts";
import { kindOf } from "../runtimes/find.ts";
import { MetricList } from "./descriptors.ts";

const SECOND = 1_000_000_000n;
/** The CRI's metrics are whole numbers; cAdvisor's are fractions of a second. */
const seconds = (nanoseconds: bigint): bigint => nanoseconds / SECOND;

/** Undefined for a container that does not run any more. */
export async function containerMetrics(
  context: CriContext,
  sandbox: Sandbox,
  container: Container,
): Promise<cri.Metric[] | undefined> {
  const { record } = container;
  const stats = await cgroupStatsOf(context, container);
  if (!stats) return undefined;
  const deep = await kindOf(context, record).detail(context, record);
  if (!deep) return undefined;
  const { cgroup: detail, processes } = deep;
  const list = new MetricList(labelsOf(sandbox, record), now());
  addCpu(list, stats, detail);
  addMemory(list, stats, detail);
  addPressure(list, stats);
  await addDisk(list, context, record, detail);
  addProcesses(list, stats, detail, processes);
  addSpec(list, record);
  return list.metrics;
}

const labelsOf = ({ record: { config } }: Sandbox, record: ContainerRecord) => ({
  container: record.config.metadata?.name ?? "",
  id: record.cgroupPath,
  image: record.config.image?.userSpecifiedImage || record.imageRef,
  name: record.id,
  namespace: config.metadata?.namespace ?? "",
  pod: config.metadata?.name ?? "",
});

function addCpu(list: MetricList, stats: CgroupStats, detail: CgroupDetail): void {
  list.add("container_cpu_usage_seconds_total", seconds(stats.cpuNs), "total");
  list.add("container_cpu_user_seconds_total", seconds(detail.userNs));
  list.add("container_cpu_system_seconds_total", seconds(detail.systemNs));
  list.add("container_cpu_cfs_periods_total", detail.periods);
  list.add("container_cpu_cfs_throttled_periods_total", detail.throttledPeriods);
  list.add("container_cpu_cfs_throttled_seconds_total", seconds(detail.throttledNs));
}

function addMemory(list: MetricList, stats: CgroupStats, detail: CgroupDetail): void {
  list.add("container_memory_cache", detail.cacheBytes);
  list.add("container_memory_rss", stats.rssBytes);
  list.add("container_memory_kernel_usage", detail.kernelBytes);
  list.add("container_memory_mapped_file", detail.mappedFileBytes);
  list.add("container_memory_swap", stats.swapBytes);
  list.add("container_memory_failcnt", detail.memoryFailures);
  list.add("container_memory_usage_bytes", stats.memoryBytes);
  list.add("container_memory_max_usage_bytes", detail.maxMemoryBytes);
  list.add("container_memory_working_set_bytes", stats.workingSetBytes);
  list.add("container_memory_total_active_file_bytes", detail.activeFileBytes);
  list.add("container_memory_total_inactive_file_bytes", detail.inactiveFileBytes);
  for (const scope of ["container", "hierarchy"]) {
    list.add("container_memory_failures_total", stats.pageFaults, "pgfault", scope);
    list.add("container_memory_failures_total", stats.majorPageFaults, "pgmajfault", scope);
  }
  list.add("container_oom_events_total", detail.oomKills);
  for (const { pageSize, bytes, maxBytes } of detail.hugepages) {
    list.add("container_hugetlb_usage_bytes", bytes, pageSize);
    list.add("container_hugetlb_max_usage_bytes", maxBytes, pageSize);
  }
}

function addPressure(list: MetricList, { pressure }: CgroupStats): void {
  if (!pressure) return;
  const whole = ({ totalUs }: Pressure["some"]): bigint => totalUs / 1_000_000n;
  for (const kind of ["cpu", "memory", "io"] as const) {
    list.add(`container_pressure_${kind}_stalled_seconds_total`, whole(pressure[kind].full));
    list.add(`container_pressure_${kind}_waiting_seconds_total`, whole(pressure[kind].some));
  }
}

async function addDisk(
  list: MetricList,
  context: CriContext,
  { id }: ContainerRecord,
  { io }: CgroupDetail,
): Promise<void> {
  const [layer, { blocks, bsize, files, ffree }] = await Promise.all([
    context.images.rootfsUsage(id),
    statfs(context.paths.root, { bigint: true }),
  ]);
  list.add("container_fs_usage_bytes", layer.bytes, context.paths.root);
  list.add("container_fs_limit_bytes", blocks * bsize, context.paths.root);
  list.add("container_fs_inodes_total", files, context.paths.root);
  list.add("container_fs_inodes_free", ffree, context.paths.root);
  for (const { major, minor, readBytes, writeBytes, reads, writes } of io) {
    const device = `${major}:${minor}`;
    list.add("container_fs_reads_total", reads, device);
    list.add("container_fs_reads_bytes_total", readBytes, device);
    list.add("container_fs_writes_total", writes, device);
    list.add("container_fs_writes_bytes_total", writeBytes, device);
    for (const [operation, bytes] of [
      ["Read", readBytes],
      ["Write", writeBytes],
    ] as const)
      list.add("container_blkio_device_usage_total", bytes, device, String(major), String(minor), operation);
  }
}

function addProcesses(list: MetricList, stats: CgroupStats, detail: CgroupDetail, counts: ProcessTally): void {
  list.add("container_processes", counts.processes);
  list.add("container_threads", stats.pids);
  // cAdvisor's 0 stands for no limit.
  list.add("container_threads_max", detail.pidsLimit ?? 0n);
  list.add("container_file_descriptors", counts.descriptors);
  list.add("container_sockets", counts.sockets);
  list.add("container_ulimits_soft", counts.softNofile, "max_open_files");
  for (const [state, tasks] of Object.entries(counts.states)) list.add("container_tasks_state", tasks, state);
}

function addSpec(list: MetricList, record: ContainerRecord): void {
  const { resources, startedAt } = record;
  list.add("container_start_time_seconds", seconds(startedAt));
  list.add("container_last_seen", seconds(now()));
  // What was asked for; 0: not set.
  list.add("container_spec_cpu_shares", resources?.cpuShares ?? 0n);
  if (resources && resources.cpuQuota > 0n) {
    list.add("container_spec_cpu_period", resources.cpuPeriod || 100_000n);
    list.add("container_spec_cpu_quota", resources.cpuQuota);
  }
  const positive = (value: bigint | undefined): bigint => (value !== undefined && value > 0n ? value : 0n);
  list.add("container_spec_memory_limit_bytes", positive(resources?.memoryLimitInBytes));
  list.add("container_spec_memory_swap_limit_bytes", positive(resources?.memorySwapLimitInBytes));
  list.add("container_spec_memory_reservation_limit_bytes", 0n);
}
