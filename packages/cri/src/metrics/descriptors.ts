/** The metrics that ListPodSandboxMetrics answers: cAdvisor's names, so that dashboards and alerts go on working (KEP-2371). */
import { create } from "@bufbuild/protobuf";
import { cri } from "@berth/spec";

const { COUNTER, GAUGE } = cri.MetricType;

interface Descriptor {
  readonly help: string;
  readonly type: cri.MetricType;
  /** Beside those that every metric has. */
  readonly labels?: readonly string[];
}

/** The labels that the kubelet's own cAdvisor endpoint gives to every container metric. */
export const BASE_LABELS = ["container", "id", "image", "name", "namespace", "pod"] as const;

const counter = (help: string, labels: readonly string[] = []): Descriptor => ({ help, type: COUNTER, labels });
const gauge = (help: string, labels: readonly string[] = []): Descriptor => ({ help, type: GAUGE, labels });
/** Per interface of the pod. */
const network = (help: string): Descriptor => counter(help, ["interface"]);

export const DESCRIPTORS = {
  container_cpu_usage_seconds_total: counter("Cumulative cpu time consumed in seconds.", ["cpu"]),
  container_cpu_user_seconds_total: counter("Cumulative user cpu time consumed in seconds."),
  container_cpu_system_seconds_total: counter("Cumulative system cpu time consumed in seconds."),
  container_cpu_cfs_periods_total: counter("Number of elapsed enforcement period intervals."),
  container_cpu_cfs_throttled_periods_total: counter("Number of throttled period intervals."),
  container_cpu_cfs_throttled_seconds_total: counter("Total time duration the container has been throttled."),
  container_memory_cache: gauge("Number of bytes of page cache memory."),
  container_memory_rss: gauge("Size of RSS in bytes."),
  container_memory_kernel_usage: gauge("Size of kernel memory allocated in bytes."),
  container_memory_mapped_file: gauge("Size of memory mapped files in bytes."),
  container_memory_swap: gauge("Container swap usage in bytes."),
  container_memory_failcnt: counter("Number of memory usage hits limits."),
  container_memory_usage_bytes: gauge(
    "Current memory usage in bytes, including all memory regardless of when it was accessed.",
  ),
  container_memory_max_usage_bytes: gauge("Maximum memory usage recorded in bytes."),
  container_memory_working_set_bytes: gauge("Current working set in bytes."),
  container_memory_total_active_file_bytes: gauge("Current total active file in bytes."),
  container_memory_total_inactive_file_bytes: gauge("Current total inactive file in bytes."),
  container_memory_failures_total: counter("Cumulative count of memory allocation failures.", [
    "failure_type",
    "scope",
  ]),
  container_oom_events_total: counter("Count of out of memory events observed for the container."),
  container_hugetlb_usage_bytes: gauge("Current hugepage usage in bytes.", ["pagesize"]),
  container_hugetlb_max_usage_bytes: gauge("Maximum hugepage usage recorded in bytes.", ["pagesize"]),
  container_fs_usage_bytes: gauge("Number of bytes that are consumed by the container on this filesystem.", ["device"]),
  container_fs_limit_bytes: gauge("Number of bytes that can be consumed by the container on this filesystem.", [
    "device",
  ]),
  container_fs_inodes_total: gauge("Number of Inodes.", ["device"]),
  container_fs_inodes_free: gauge("Number of available Inodes.", ["device"]),
  container_fs_reads_total: counter("Cumulative count of reads completed.", ["device"]),
  container_fs_reads_bytes_total: counter("Cumulative count of bytes read.", ["device"]),
  container_fs_writes_total: counter("Cumulative count of writes completed.", ["device"]),
  container_fs_writes_bytes_total: counter("Cumulative count of bytes written.", ["device"]),
  container_blkio_device_usage_total: counter("Blkio Device bytes usage.", ["device", "major", "minor", "operation"]),
  container_processes: gauge("Number of processes running inside the container."),
  container_threads: gauge("Number of threads running inside the container."),
  container_threads_max: gauge("Maximum number of threads allowed inside the container."),
  container_file_descriptors: gauge("Number of open file descriptors for the container."),
  container_sockets: gauge("Number of open sockets for the container."),
  container_ulimits_soft: gauge("Soft ulimit values for the container root process.", ["ulimit"]),
  container_tasks_state: gauge("Number of tasks in given state.", ["state"]),
  container_start_time_seconds: gauge("Start time of the container since unix epoch in seconds."),
  container_last_seen: gauge("Last time a container was seen by the exporter."),
  container_spec_cpu_period: gauge("CPU period of the container."),
  container_spec_cpu_quota: gauge("CPU quota of the container."),
  container_spec_cpu_shares: gauge("CPU share of the container."),
  container_spec_memory_limit_bytes: gauge("Memory limit for the container."),
  container_spec_memory_swap_limit_bytes: gauge("Memory swap limit for the container."),
  container_spec_memory_reservation_limit_bytes: gauge("Memory reservation limit for the container."),
  container_pressure_cpu_stalled_seconds_total: counter(
    "Total time duration no tasks in the container could make progress due to CPU congestion.",
  ),
  container_pressure_cpu_waiting_seconds_total: counter(
    "Total time duration tasks in the container have waited due to CPU congestion.",
  ),
  container_pressure_memory_stalled_seconds_total: counter(
    "Total time duration no tasks in the container could make progress due to memory congestion.",
  ),
  container_pressure_memory_waiting_seconds_total: counter(
    "Total time duration tasks in the container have waited due to memory congestion.",
  ),
  container_pressure_io_stalled_seconds_total: counter(
    "Total time duration no tasks in the container could make progress due to IO congestion.",
  ),
  container_pressure_io_waiting_seconds_total: counter(
    "Total time duration tasks in the container have waited due to IO congestion.",
  ),
  container_network_receive_bytes_total: network("Cumulative count of bytes received."),
  container_network_receive_packets_total: network("Cumulative count of packets received."),
  container_network_receive_packets_dropped_total: network("Cumulative count of packets dropped while receiving."),
  container_network_receive_errors_total: network("Cumulative count of errors encountered while receiving."),
  container_network_transmit_bytes_total: network("Cumulative count of bytes transmitted."),
  container_network_transmit_packets_total: network("Cumulative count of packets transmitted."),
  container_network_transmit_packets_dropped_total: network("Cumulative count of packets dropped while transmitting."),
  container_network_transmit_errors_total: network("Cumulative count of errors encountered while transmitting."),
} as const satisfies Readonly<Record<string, Descriptor>>;

export type MetricName = keyof typeof DESCRIPTORS;

export function listMetricDescriptors(): Promise<cri.ListMetricDescriptorsResponse> {
  return Promise.resolve(
    create(cri.ListMetricDescriptorsResponseSchema, {
      descriptors: Object.entries<Descriptor>(DESCRIPTORS).map(([name, { help, labels = [] }]) => ({
        name,
        help,
        labelKeys: [...BASE_LABELS, ...labels],
      })),
    }),
  );
}

/** Metrics of one container or pod under way: all share the base labels' values and the time. */
export class MetricList {
  readonly metrics: cri.Metric[] = [];
  readonly #labels: readonly string[];
  readonly #timestamp: bigint;

  constructor(labels: Readonly<Record<(typeof BASE_LABELS)[number], string>>, timestamp: bigint) {
    this.#labels = BASE_LABELS.map((label) => labels[label]);
    this.#timestamp = timestamp;
  }

  /** `labelValues`: of the metric's own labels, in the descriptor's order. An undefined value is not known here, and left out. */
  add(name: MetricName, value: bigint | number | undefined, ...labelValues: string[]): void {
    if (value === undefined) return;
    const { type, labels = [] }: Descriptor = DESCRIPTORS[name];
    if (labels.length !== labelValues.length)
      throw new Error(`metric ${name} has the labels ${labels.join(", ")}, and was given ${labelValues.length}`);
    this.metrics.push(
      create(cri.MetricSchema, {
        name,
        timestamp: this.#timestamp,
        metricType: type,
        labelValues: [...this.#labels, ...labelValues],
        value: { value: BigInt(value) },
      }),
    );
  }
}
