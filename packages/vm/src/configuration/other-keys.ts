/** The keys of every other table of configuration.toml. */
import { honoured, type Key, moot, refused, type Values } from "./key.ts";

const PROGRAM = "berth has no such program: what it did, bosun does";
const TRACES = "a VM's start is part of its pod's trace; berthd's [tracing] says where to";
const NETMON = "networks are attached by CNI alone, before the VM's start";
const MEM_AGENT = "the guest's memory is given back by its balloon (reclaim_guest_freed_memory)";
const COCO = "confidential containers' services are not in the guest";

export const FACTORY_KEYS = {
  enable_template: honoured("boolean", true, "a pod's machine is copied from one that has booted"),
  template_path: honoured("string", "", "where templates are kept; else below berthd's root directory"),
  vm_cache_number: honoured(
    "integer",
    -1,
    "so many machines wait for a pod; unsaid: one, where machines are copies of a template",
  ),
  vm_cache_endpoint: moot("string", "", "machines that wait are berthd's own: nobody else is given one"),
} as const;

export const RUNTIME_KEYS = {
  name: moot("string", "", "Kata's choice between its own runtimes"),
  hypervisor_name: honoured("string", "", "which [hypervisor.NAME] counts, where there are several"),
  agent_name: moot("string", "kata", "the guest's image says which agent it has"),
  enable_debug: moot("boolean", false, "berthd's [debug] level says what it logs"),
  internetworking_model: honoured("string", "tcfilter", "tcfilter, macvtap or none"),
  disable_guest_seccomp: honoured("boolean", false, "false: a container's seccomp filter is loaded in the guest too"),
  disable_new_netns: refused("boolean", false, "a pod on the host's network is no VM's; give it another runtime class"),
  sandbox_cgroup_only: moot("boolean", true, "all processes of a VM are in the pod's cgroup"),
  static_sandbox_resource_mgmt: honoured(
    "boolean",
    false,
    "a machine has its pod's limits at its start, and keeps them",
  ),
  sandbox_bind_mounts: refused("strings", [], "the guest sees what its containers do"),
  enable_vcpus_pinning: refused("boolean", false, "processors are given by the pod's cpuset"),
  vfio_mode: refused("string", "guest-kernel", "the devices that a guest is handed are its kernel's own"),
  disable_guest_empty_dir: moot("boolean", true, "an emptyDir is the kubelet's directory, shared like any other"),
  emptydir_mode: refused("string", "shared-fs", "an emptyDir is the kubelet's directory, shared like any other"),
  create_container_timeout: honoured("integer", 60, "seconds that Kata's agent has to make a container"),
  guest_selinux_label: refused("string", "", "the guest's kernel has no policy loaded"),
  experimental: honoured("strings", [], "none is known: any name is an error"),
  enable_pprof: moot("boolean", false, "Go's profiler"),
  enable_tracing: moot("boolean", false, TRACES),
  jaeger_endpoint: moot("string", "", TRACES),
  jaeger_user: moot("string", "", TRACES),
  jaeger_password: moot("string", "", TRACES),
  dan_conf: refused("string", "", "networks are attached by CNI alone"),
  kubelet_root_dir: moot("string", "/var/lib/kubelet", "volumes are what the CRI names"),
  pod_resource_api_sock: refused("string", "", "devices are known by the pod's CDI annotations (cold_plug_vfio)"),
  keep_abnormal: refused("boolean", false, "a VM that ended is cleaned; its logs stay with the pod's directory"),
  experimental_force_guest_pull: refused("boolean", false, "images are berthd's"),
} as const;

export const AGENT_KEYS = {
  enable_debug: honoured("boolean", false, "the guest's kernel speaks on the console"),
  enable_tracing: moot("boolean", false, TRACES),
  trace_mode: moot("string", "", TRACES),
  trace_type: moot("string", "", TRACES),
  debug_console_enabled: honoured("boolean", false, "berth-vm exec gets a shell in the guest, where the image has one"),
  dial_timeout: honoured("integer", 45, "seconds that the guest's program has to answer for the first time"),
  dial_timeout_ms: moot("integer", 0, "one attempt is made; QEMU tells when the guest opens the channel"),
  reconnect_timeout_ms: moot("integer", 0, "the channel is not given up before its hypervisor is"),
  request_timeout_ms: moot("integer", 0, "each order has its own deadline"),
  health_check_request_timeout_ms: moot("integer", 0, "a hypervisor's end is an event, not asked for"),
  kernel_modules: honoured("strings", [], "loaded by Kata's agent; berth's own guest loads what its image lists"),
  container_pipe_size: honoured(
    "integer",
    0,
    "by Kata's agent; with berth's own guest streams have windows, not pipes",
  ),
  launch_process_timeout: moot("integer", 0, COCO),
  cdh_api_timeout: moot("integer", 0, COCO),
  cdh_api_timeout_ms: moot("integer", 0, COCO),
  create_container_timeout: moot("integer", 0, "the call's own deadline counts"),
} as const;

const program: Readonly<Record<string, Key>> = {
  path: moot("string", "", PROGRAM),
  enable_debug: moot("boolean", false, PROGRAM),
  enable_tracing: moot("boolean", false, TRACES),
};

/** By the table's name, "*" for any second part. [hypervisor.NAME] and its factory are beside this. */
export const OTHER_TABLES: Readonly<Record<string, Readonly<Record<string, Key>>>> = {
  factory: FACTORY_KEYS,
  runtime: RUNTIME_KEYS,
  "agent.*": AGENT_KEYS,
  "proxy.*": program,
  "shim.*": program,
  netmon: {
    enable_netmon: refused("boolean", false, NETMON),
    path: moot("string", "", NETMON),
    enable_debug: moot("boolean", false, NETMON),
  },
  image: {
    service_offload: refused("boolean", false, "images are berthd's"),
  },
  "agent.*.mem_agent": Object.fromEntries(
    [
      "mem_agent_enable",
      "memcg_disable",
      "memcg_swap",
      "memcg_swappiness_max",
      "memcg_period_secs",
      "memcg_period_psi_percent_limit",
      "memcg_eviction_psi_percent_limit",
      "memcg_eviction_run_aging_count_min",
      "compact_disable",
      "compact_period_secs",
      "compact_period_psi_percent_limit",
      "compact_psi_percent_limit",
      "compact_sec_max",
      "compact_order",
      "compact_threshold",
      "compact_force_times",
    ].map((name) => {
      const isSwitch = /_(enable|disable|swap)$/.test(name);
      if (name === "mem_agent_enable") return [name, refused("boolean", false, MEM_AGENT)];
      return [name, isSwitch ? moot("boolean", false, MEM_AGENT) : moot("number", 0, MEM_AGENT)];
    }),
  ),
};

export type FactoryValues = Values<typeof FACTORY_KEYS>;
export type RuntimeValues = Values<typeof RUNTIME_KEYS>;
export type AgentValues = Values<typeof AGENT_KEYS>;
