/** Kata's metrics (its docs/design/kata-2-0-metrics.md): names, types, and the words that its programs give with them. */
import type { Family, MetricType, Sample } from "./exposition.ts";

interface About {
  readonly type: MetricType;
  readonly help: string;
}

const gauge = (help: string): About => ({ type: "gauge", help });
const counter = (help: string): About => ({ type: "counter", help });
const histogram = (help: string): About => ({ type: "histogram", help });

export const FAMILIES = {
  kata_monitor_running_shim_count: gauge("Running shim count(running sandboxes)."),
  kata_monitor_scrape_count: counter("Scape count."),
  kata_monitor_scrape_failed_count: counter("Failed scape count."),
  kata_monitor_scrape_durations_histogram_milliseconds: histogram("Time used to scrape from shims"),

  kata_shim_fds: gauge("Open FDs of what stands in the shim's place: monitors and relay."),
  kata_shim_threads: gauge("Threads of what stands in the shim's place."),
  kata_shim_io_stat: gauge("IO statistics of what stands in the shim's place."),
  kata_shim_proc_stat: gauge("Process statistics of what stands in the shim's place."),
  kata_shim_proc_status: gauge("Process status of what stands in the shim's place."),
  kata_shim_netdev: gauge("Network devices statistics of the node, where it runs."),
  kata_shim_pod_overhead_cpu: gauge("Kata Pod overhead for CPU resources(percent)."),
  kata_shim_pod_overhead_memory_in_bytes: gauge("Kata Pod overhead for memory resources(bytes)."),
  kata_shim_rpc_durations_histogram_milliseconds: histogram("RPC latency distributions."),
  kata_shim_agent_rpc_durations_histogram_milliseconds: histogram("RPC latency distributions."),

  kata_hypervisor_fds: gauge("Open FDs for hypervisor."),
  kata_hypervisor_threads: gauge("Hypervisor process threads."),
  kata_hypervisor_io_stat: gauge("Process IO statistics."),
  kata_hypervisor_netdev: gauge("Net devices statistics."),
  kata_hypervisor_proc_stat: gauge("Hypervisor process statistics."),
  kata_hypervisor_proc_status: gauge("Hypervisor process status."),

  kata_virtiofsd_fds: gauge("Open FDs for virtiofsd."),
  kata_virtiofsd_threads: gauge("Virtiofsd process threads."),
  kata_virtiofsd_io_stat: gauge("Process IO statistics."),
  kata_virtiofsd_proc_stat: gauge("Virtiofsd process statistics."),
  kata_virtiofsd_proc_status: gauge("Virtiofsd process status."),

  kata_guest_cpu_time: gauge("Guest CPU statistics."),
  kata_guest_diskstat: gauge("Disks statistics in system."),
  kata_guest_filesystem_bytes: gauge("Guest filesystem space usage in bytes."),
  kata_guest_filesystem_inodes: gauge("Guest filesystem inode usage."),
  kata_guest_load: gauge("Guest system load."),
  kata_guest_meminfo: gauge("Statistics about memory usage in the system."),
  kata_guest_netdev_stat: gauge("Guest net devices statistics."),
  kata_guest_tasks: gauge("Guest system load."),
  kata_guest_vm_stat: gauge("Guest virtual memory statistics."),

  kata_agent_io_stat: gauge("Agent process IO statistics."),
  kata_agent_proc_stat: gauge("Agent process statistics."),
  kata_agent_proc_status: gauge("Agent process status."),
  kata_agent_scrape_count: counter("Metrics scrape count"),
  kata_agent_threads: gauge("Agent process threads"),
  kata_agent_total_rss: gauge("Agent process total RSS size"),
  kata_agent_total_time: gauge("Agent process total time"),
  kata_agent_total_vm: gauge("Agent process total VM size"),
} as const satisfies Readonly<Record<string, About>>;

export type FamilyName = keyof typeof FAMILIES;

export const family = (name: FamilyName, samples: readonly Sample[]): Family => ({ name, ...FAMILIES[name], samples });

export const single = (name: FamilyName, value: number): Family => family(name, [{ labels: {}, value }]);

/** Values by what their label "item" says. */
export const items = (values: Readonly<Record<string, number>>, labels: Readonly<Record<string, string>> = {}) =>
  Object.entries(values).map(([item, value]): Sample => ({ labels: { ...labels, item }, value }));
