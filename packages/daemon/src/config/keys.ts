/**
 * Every key of containerd's configuration that berthd knows, where version 4 has it (migrate.ts says where older versions have
 * it): its type, containerd's default, and what berth makes of it. What a file says is judged by this table alone.
 */
export type Kind = "string" | "bool" | "int" | "number" | "duration" | "strings" | "any";
export type Value = string | number | boolean | readonly unknown[] | { readonly [key: string]: unknown };

export interface Key {
  readonly path: readonly string[];
  readonly kind: Kind;
  /** Absent: containerd's default file does not have it. */
  readonly default?: Value;
  /** For berth the same; "none": it has no counterpart, and nothing that a pod can see depends on it. */
  readonly support: "works" | "none" | "refused";
  /** Of "none" and "refused": why. */
  readonly why?: string;
  /** Of "refused": values besides the default that ask for nothing. */
  readonly harmless?: readonly Value[];
}

interface KeyOptions {
  readonly default?: Value;
  readonly support: Key["support"];
  readonly why?: string;
  readonly harmless?: readonly Value[];
}
type Row = readonly [name: string, kind: Kind, options: KeyOptions];

const works = (value?: Value): KeyOptions => ({ support: "works", ...(value !== undefined && { default: value }) });
const none = (value: Value | undefined, why: string): KeyOptions => ({
  support: "none",
  why,
  ...(value !== undefined && { default: value }),
});
const refused = (value: Value, why: string, harmless: readonly Value[] = []): KeyOptions => ({
  support: "refused",
  why,
  default: value,
  harmless,
});
/** As `refused`, for a key that containerd's default file does not have. */
const refusedUnless = (harmless: readonly Value[], why: string): KeyOptions => ({ support: "refused", why, harmless });

export const RUNTIME = "io.containerd.cri.v1.runtime";
export const IMAGES = "io.containerd.cri.v1.images";
export const EROFS = "io.containerd.snapshotter.v1.erofs";
export const EROFS_DIFFER = "io.containerd.differ.v1.erofs";
export const STREAMING = "io.containerd.grpc.v1.cri";
export const OTLP = "io.containerd.tracing.processor.v1.otlp";
export const NRI = "io.containerd.nri.v1.nri";
export const TRACING = "io.containerd.internal.v1.tracing";
/** Berth's own table, which containerd passes over as that of a plugin it does not have. */
export const OWN_IMAGES = "io.berth.images.v1";

const group = (prefix: readonly string[], rows: readonly Row[]): Key[] =>
  rows.map(([name, kind, options]) => ({ path: [...prefix, ...name.split(".")], kind, ...options }));

const NO_STREAMS = "layers that need an external decoder are refused by name when they are pulled";
const NO_PROXY = "berth talks to no proxy plugin";

const SERVER: readonly Row[] = [
  ["version", "int", works(4)],
  ["root", "string", works("/var/lib/berth")],
  ["state", "string", works("/run/berth")],
  ["temp", "string", none("", "temporary files are made in the root directory, so that a rename completes them")],
  ["disabled_plugins", "strings", works([])],
  ["plugin_dir", "string", none("", "berth loads no plugins")],
  ["required_plugins", "strings", none([], "berth has no plugins that could be missing")],
  ["oom_score", "int", works(0)],
  ["imports", "strings", works([])],
  ["debug.level", "string", works("")],
  ["debug.format", "string", none("", "logs are JSON, a line each")],
  ["debug.log_trace_id", "bool", none(false, "a trace has its own place, the collector")],
  ["cgroup.path", "string", none("", "the unit that starts berthd says which cgroup it is in")],
  ["proxy_plugins.*.type", "string", refusedUnless([""], NO_PROXY)],
  ["proxy_plugins.*.address", "string", none(undefined, NO_PROXY)],
  ["proxy_plugins.*.platform", "string", none(undefined, NO_PROXY)],
  ["proxy_plugins.*.exports.*", "string", none(undefined, NO_PROXY)],
  ["proxy_plugins.*.capabilities", "strings", none(undefined, NO_PROXY)],
  // Which timeouts there are is containerd's affair: shim load, bolt open, task state …
  ["timeouts.*", "duration", none(undefined, "berth's processes have deadlines of their own")],
  ["stream_processors.*.accepts", "strings", none(undefined, NO_STREAMS)],
  ["stream_processors.*.returns", "string", none(undefined, NO_STREAMS)],
  ["stream_processors.*.path", "string", none(undefined, NO_STREAMS)],
  ["stream_processors.*.args", "strings", none(undefined, NO_STREAMS)],
  ["stream_processors.*.env", "strings", none(undefined, NO_STREAMS)],
];

const IMAGE_KEYS: readonly Row[] = [
  [
    "snapshotter",
    "string",
    refused("overlayfs", "berth has erofs, overlayfs and native, and chooses by what the file system can do", [
      "",
      "erofs",
      "native",
    ]),
  ],
  ["disable_snapshot_annotations", "bool", none(true, "no remote snapshotter reads them")],
  [
    "discard_unpacked_layers",
    "bool",
    none(false, "compressed layers are kept, so that they can be pushed and checked"),
  ],
  ["max_concurrent_downloads", "int", works(3)],
  ["concurrent_layer_fetch_buffer", "int", none(undefined, "a layer is fetched over one connection")],
  [
    "image_pull_progress_timeout",
    "duration",
    none("5m0s", "a transfer that stalls is retried and then fails, as the image store says"),
  ],
  ["image_pull_with_sync_fs", "bool", none(false, "an image survives a power cut once its pull has ended")],
  ["stats_collect_period", "int", none(10, "usage is read when it is asked for")],
  ["use_local_image_pull", "bool", none(undefined, "there is one way to pull")],
  ["disable_image_pull_with_transfer_service", "bool", none(undefined, "there is one way to pull")],
  ["pinned_images.sandbox", "string", works("registry.k8s.io/pause:3.10")],
  ["pinned_images.*", "string", works()],
  ["registry.config_path", "string", works("")],
  ["registry.mirrors.*.endpoint", "strings", works()],
  ["registry.configs.*.auth.username", "string", works()],
  ["registry.configs.*.auth.password", "string", works()],
  ["registry.configs.*.auth.auth", "string", works()],
  ["registry.configs.*.auth.identitytoken", "string", works()],
  ["registry.configs.*.tls.insecure_skip_verify", "bool", works()],
  ["registry.configs.*.tls.ca_file", "string", works()],
  ["registry.configs.*.tls.cert_file", "string", works()],
  ["registry.configs.*.tls.key_file", "string", works()],
  ["registry.auths.*.username", "string", works()],
  ["registry.auths.*.password", "string", works()],
  ["registry.auths.*.auth", "string", works()],
  ["registry.auths.*.identitytoken", "string", works()],
  ["registry.headers.*", "strings", works()],
  ["image_decryption.key_model", "string", none("node", "encrypted layers are refused by name when they are pulled")],
  [
    "runtime_platforms.*.platform",
    "string",
    refusedUnless([""], "every handler's images are unpacked for this machine"),
  ],
  [
    "runtime_platforms.*.snapshotter",
    "string",
    refusedUnless(["", "overlayfs", "erofs"], "every handler's images are unpacked alike"),
  ],
];

const NO_SELINUX = "this version of berth sets no SELinux labels";
const OLD_RUNTIME = "containerd 2 does not know it either; name the runtime in containerd.runtimes";

const RUNTIME_KEYS: readonly Row[] = [
  ["enable_selinux", "bool", refused(false, NO_SELINUX)],
  ["selinux_category_range", "int", none(1024, NO_SELINUX)],
  ["max_container_log_line_size", "int", works(16_384)],
  ["disable_cgroup", "bool", refused(false, "a container always has its cgroups")],
  ["disable_apparmor", "bool", works(false)],
  ["restrict_oom_score_adj", "bool", works(false)],
  ["disable_proc_mount", "bool", refused(false, "the kubelet's procMount is always honoured")],
  ["unset_seccomp_profile", "string", works("")],
  ["tolerate_missing_hugetlb_controller", "bool", works(true)],
  ["disable_hugetlb_controller", "bool", works(false)],
  ["device_ownership_from_security_context", "bool", works(false)],
  [
    "ignore_image_defined_volumes",
    "bool",
    none(false, "volumes that an image declares stay part of its root file system"),
  ],
  ["netns_mounts_under_state_dir", "bool", works(false)],
  ["enable_unprivileged_ports", "bool", works(true)],
  ["enable_unprivileged_icmp", "bool", works(true)],
  ["enable_cdi", "bool", works(true)],
  ["cdi_spec_dirs", "strings", works(["/etc/cdi", "/var/run/cdi"])],
  ["drain_exec_sync_io_timeout", "duration", works("0s")],
  ["enable_criu", "bool", works(true)],
  ["enable_experimental_restore_via_create", "bool", works(true)],
  // Before version 3 this was the images' key, a number.
  ["stats_collect_period", "duration", none(undefined, "usage is read when it is asked for")],
  ["stats_retention_period", "duration", none(undefined, "usage is read when it is asked for")],
  ["ignore_deprecation_warnings", "strings", none([], "deprecated keys are named by `berthd config check` alone")],
  [
    "systemd_cgroup",
    "bool",
    refusedUnless([false], "containerd 1.3 dropped it; set SystemdCgroup in the runtime's options"),
  ],
  ["containerd.default_runtime_name", "string", works("runc")],
  ["containerd.ignore_blockio_not_enabled_errors", "bool", none(false, "berth reads no blockio classes")],
  ["containerd.ignore_rdt_not_enabled_errors", "bool", none(false, "berth reads no RDT classes")],
  [
    "containerd.no_pivot",
    "bool",
    refusedUnless([false], "set NoPivotRoot in the options of a runtime with a BinaryName"),
  ],
  ["containerd.disable_snapshot_annotations", "bool", none(undefined, "no remote snapshotter reads them")],
  ["containerd.default_runtime.*", "any", refusedUnless(["", 0, false, [], {}], OLD_RUNTIME)],
  ["containerd.untrusted_workload_runtime.*", "any", refusedUnless(["", 0, false, [], {}], OLD_RUNTIME)],
  ["containerd.runtimes.runc.runtime_type", "string", works("io.containerd.runc.v2")],
  ["containerd.runtimes.*.runtime_type", "string", works()],
  ["containerd.runtimes.runc.runtime_path", "string", works("")],
  ["containerd.runtimes.*.runtime_path", "string", works()],
  ["containerd.runtimes.runc.pod_annotations", "strings", works([])],
  ["containerd.runtimes.*.pod_annotations", "strings", works()],
  ["containerd.runtimes.runc.container_annotations", "strings", works([])],
  ["containerd.runtimes.*.container_annotations", "strings", works()],
  ["containerd.runtimes.runc.privileged_without_host_devices", "bool", works(false)],
  ["containerd.runtimes.*.privileged_without_host_devices", "bool", works()],
  ["containerd.runtimes.runc.privileged_without_host_devices_all_devices_allowed", "bool", works(false)],
  ["containerd.runtimes.*.privileged_without_host_devices_all_devices_allowed", "bool", works()],
  ["containerd.runtimes.runc.cgroup_writable", "bool", works(false)],
  ["containerd.runtimes.*.cgroup_writable", "bool", works()],
  ["containerd.runtimes.runc.base_runtime_spec", "string", works("")],
  ["containerd.runtimes.*.base_runtime_spec", "string", works()],
  ["containerd.runtimes.runc.cni_conf_dir", "string", works("")],
  ["containerd.runtimes.*.cni_conf_dir", "string", works()],
  ["containerd.runtimes.runc.cni_max_conf_num", "int", works(0)],
  ["containerd.runtimes.*.cni_max_conf_num", "int", works()],
  ["containerd.runtimes.runc.snapshotter", "string", none("", "every handler's images are unpacked alike")],
  ["containerd.runtimes.*.snapshotter", "string", none(undefined, "every handler's images are unpacked alike")],
  ["containerd.runtimes.runc.sandboxer", "string", works("podsandbox")],
  ["containerd.runtimes.*.sandboxer", "string", works()],
  [
    "containerd.runtimes.*.sandbox_mode",
    "string",
    refusedUnless(["", "podsandbox"], "containerd 2 calls it sandboxer"),
  ],
  ["containerd.runtimes.runc.io_type", "string", none("", "the container's monitor holds its streams")],
  ["containerd.runtimes.*.io_type", "string", none(undefined, "the container's monitor holds its streams")],
  [
    "containerd.runtimes.*.runtime_engine",
    "string",
    refusedUnless([""], "containerd 1.4 dropped it; set BinaryName in the runtime's options"),
  ],
  [
    "containerd.runtimes.*.runtime_root",
    "string",
    refusedUnless([""], "containerd 1.4 dropped it; set Root in the runtime's options"),
  ],
  ["containerd.runtimes.runc.options.BinaryName", "string", works("")],
  ["containerd.runtimes.runc.options.CriuImagePath", "string", none("", "checkpoints are made where the call says")],
  ["containerd.runtimes.runc.options.CriuPath", "string", none(undefined, "criu is looked for on PATH")],
  ["containerd.runtimes.runc.options.CriuWorkPath", "string", none("", "criu works in the container's directory")],
  ["containerd.runtimes.runc.options.IoGid", "int", none(0, "a container's streams belong to its monitor")],
  ["containerd.runtimes.runc.options.IoUid", "int", none(0, "a container's streams belong to its monitor")],
  ["containerd.runtimes.runc.options.NoNewKeyring", "bool", works(false)],
  ["containerd.runtimes.runc.options.NoPivotRoot", "bool", works()],
  ["containerd.runtimes.runc.options.Root", "string", works("")],
  [
    "containerd.runtimes.runc.options.ShimCgroup",
    "string",
    none("", "there is no shim; the monitor is in berthd's cgroup"),
  ],
  ["containerd.runtimes.runc.options.SystemdCgroup", "bool", works(false)],
  ["containerd.runtimes.*.options.SystemdCgroup", "bool", works()],
  // Other runtimes have other options, which reach them as they are.
  ["containerd.runtimes.*.options.*", "any", works()],
  ["containerd.runtimes.*.options", "any", works()],
  ["cni.bin_dir", "string", works("")],
  ["cni.bin_dirs", "strings", works(["/opt/cni/bin", "/usr/lib/cni"])],
  ["cni.conf_dir", "string", works("/etc/cni/net.d")],
  ["cni.max_conf_num", "int", works(1)],
  ["cni.setup_serially", "bool", none(false, "networks are set up one after the other")],
  ["cni.conf_template", "string", works("")],
  ["cni.ip_pref", "string", works("")],
  ["cni.use_internal_loopback", "bool", none(false, "lo is always brought up without a plugin")],
];

const STREAM_KEYS: readonly Row[] = [
  ["disable_tcp_service", "bool", refused(true, "the CRI is served on a unix socket alone")],
  ["stream_server_address", "string", works("127.0.0.1")],
  ["stream_server_port", "string", works("0")],
  ["stream_idle_timeout", "duration", works("4h0m0s")],
  ["enable_tls_streaming", "bool", works(false)],
  ["x509_key_pair_streaming.tls_cert_file", "string", works("")],
  ["x509_key_pair_streaming.tls_key_file", "string", works("")],
];

const EROFS_KEYS: readonly Row[] = [
  ["root_path", "string", refusedUnless([""], "layers are kept below root, with what they are unpacked from")],
  ["ovl_mount_options", "strings", refusedUnless([[]], "a container's overlay is mounted as its plan says")],
  ["enable_fsverity", "bool", works()],
  [
    "set_immutable",
    "bool",
    refusedUnless([false], "enable_fsverity keeps images from being changed, and notices when they were"),
  ],
  ["dmverity_mode", "string", works()],
  ["default_size", "string", works()],
  ["default_size_mb", "int", works()],
  ["enable_fsmerge", "bool", none(undefined, "each layer is mounted once, for all containers")],
  ["max_unmerged_layers", "int", none(undefined, "each layer is mounted once, for all containers")],
];
const EROFS_DIFFER_KEYS: readonly Row[] = [
  ["mkfs_options", "strings", none(undefined, "berth writes images itself, without mkfs.erofs")],
  ["enable_tar_index", "bool", refusedUnless([false], "layers become whole images")],
  ["enable_dmverity", "bool", works()],
];

const NRI_KEYS: readonly Row[] = [
  ["disable", "bool", works(false)],
  ["socket_path", "string", works("/var/run/nri/nri.sock")],
  ["plugin_path", "string", works("/opt/nri/plugins")],
  ["plugin_config_path", "string", works("/etc/nri/conf.d")],
  ["plugin_registration_timeout", "duration", works("5s")],
  ["plugin_request_timeout", "duration", works("2s")],
  ["disable_connections", "bool", works(false)],
  ["default_validator.enable", "bool", works(false)],
  ...["oci_hook", "runtime_default_seccomp", "unconfined_seccomp", "custom_seccomp", "namespace", "sysctl"].map(
    (what): Row => [`default_validator.reject_${what}_adjustment`, "bool", works(false)],
  ),
  ["default_validator.required_plugins", "strings", works([])],
  ["default_validator.tolerate_missing_plugins_annotation", "string", works("")],
];

const NO_TCP = "berthd serves no TCP; the socket is root's alone";
const OTHER_PLUGINS: readonly (readonly [string, readonly Row[]])[] = [
  [
    "io.containerd.server.v1.grpc",
    [
      ["address", "string", works("/run/berth/berth.sock")],
      ["uid", "int", refused(0, "the socket is root's alone")],
      ["gid", "int", works(0)],
      ["max_recv_message_size", "int", none(16_777_216, "messages have up to 16 MiB")],
      ["max_send_message_size", "int", none(16_777_216, "messages have up to 16 MiB")],
    ],
  ],
  [
    "io.containerd.server.v1.grpc-tcp",
    [
      ["address", "string", refusedUnless([""], NO_TCP)],
      ...["tls_ca", "tls_cert", "tls_key", "tls_common_name"].map((name): Row => [
        name,
        "string",
        none(undefined, NO_TCP),
      ]),
      ...["max_recv_message_size", "max_send_message_size"].map((name): Row => [name, "int", none(16_777_216, NO_TCP)]),
    ],
  ],
  [
    "io.containerd.server.v1.ttrpc",
    [
      ["address", "string", none(undefined, "shims tell their events at a socket in the state directory")],
      ["uid", "int", none(undefined, "shims tell their events at a socket in the state directory")],
      ["gid", "int", none(undefined, "shims tell their events at a socket in the state directory")],
    ],
  ],
  [
    "io.containerd.server.v1.debug",
    [
      ["address", "string", refusedUnless([""], "there is no debug socket")],
      ["uid", "int", none(undefined, "there is no debug socket")],
      ["gid", "int", none(undefined, "there is no debug socket")],
    ],
  ],
  [
    "io.containerd.image-verifier.v1.bindir",
    [
      ["bin_dir", "string", works("/opt/containerd/image-verifier/bin")],
      ["max_verifiers", "int", works(10)],
      ["per_verifier_timeout", "duration", works("10s")],
      ["verify_on_run", "bool", refusedUnless([false], "images are verified when they are pulled")],
    ],
  ],
  [NRI, NRI_KEYS],
  [EROFS, EROFS_KEYS],
  [EROFS_DIFFER, EROFS_DIFFER_KEYS],
  ["io.containerd.server.v1.metrics", [["address", "string", works("")]]],
  // containerd 2 reads these of the environment alone; 1.x had them here.
  [
    OTLP,
    [
      ["endpoint", "string", works()],
      ["protocol", "string", works()],
      ["insecure", "bool", works()],
    ],
  ],
  [
    TRACING,
    [
      ["service_name", "string", works()],
      ["sampling_ratio", "number", works()],
    ],
  ],
  [
    OWN_IMAGES,
    [
      ["snapshotter", "string", works()],
      ["gc_high_threshold_percent", "int", works()],
      ["gc_low_threshold_percent", "int", works()],
      ["gc_minimum_age", "duration", works()],
      ["gc_period", "duration", works()],
      ["http_proxy", "string", works()],
      ["https_proxy", "string", works()],
      ["no_proxy", "string", works()],
      ["auth_file", "string", works()],
      ["signature_policy", "string", works()],
    ],
  ],
  [
    "io.containerd.metrics.v1.grpc-prometheus",
    [["grpc_histogram", "bool", none(false, "latencies are always histograms")]],
  ],
];

/** Plugins of containerd whose settings say nothing about what a pod sees; a default file is full of them. */
export const QUIET_PLUGINS: ReadonlySet<string> = new Set([
  "io.containerd.content.v1.content",
  "io.containerd.diff-service.v1.diff-service",
  "io.containerd.gc.v1.scheduler",
  "io.containerd.grpc.v1.healthcheck",
  "io.containerd.grpc.v1.images",
  "io.containerd.internal.v1.opt",
  "io.containerd.internal.v1.restart",
  "io.containerd.metadata.v1.bolt",
  "io.containerd.monitor.container.v1.restart",
  "io.containerd.monitor.task.v1.cgroups",
  "io.containerd.monitor.v1.cgroups",
  "io.containerd.mount-handler.v1.erofs",
  "io.containerd.mount-manager.v1.bolt",
  "io.containerd.podsandbox.controller.v1.podsandbox",
  "io.containerd.runtime.v1.linux",
  "io.containerd.runtime.v2.shim",
  "io.containerd.runtime.v2.task",
  "io.containerd.service.v1.diff-service",
  "io.containerd.service.v1.tasks-service",
  "io.containerd.shim.v1.manager",
  "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.blockfile",
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.native",
  "io.containerd.snapshotter.v1.overlayfs",
  "io.containerd.snapshotter.v1.zfs",
  "io.containerd.transfer.v1.local",
]);

export const KEYS: readonly Key[] = [
  ...group([], SERVER),
  ...group(["plugins", IMAGES], IMAGE_KEYS),
  ...group(["plugins", RUNTIME], RUNTIME_KEYS),
  ...group(["plugins", STREAMING], STREAM_KEYS),
  ...OTHER_PLUGINS.flatMap(([name, rows]) => group(["plugins", name], rows)),
];

/** The key of this path: one that names it exactly rather than by "*". */
export function findKey(path: readonly string[]): Key | undefined {
  return KEYS.find((key) => matches(key.path, path));
}

const matches = (pattern: readonly string[], path: readonly string[]): boolean =>
  pattern.length === path.length && pattern.every((part, index) => part === "*" || part === path[index]);

/** What may come after `path`, for the key that was probably meant. */
export function knownAfter(path: readonly string[]): Set<string> {
  const names = new Set<string>();
  for (const key of KEYS) {
    const next = key.path[path.length];
    if (next !== undefined && next !== "*" && matches(key.path.slice(0, path.length), path)) names.add(next);
  }
  if (path.length === 1 && path[0] === "plugins") for (const name of QUIET_PLUGINS) names.add(name);
  return names;
}

/** Whether a table of this path can hold known keys. */
export const isTable = (path: readonly string[]): boolean =>
  KEYS.some((key) => key.path.length > path.length && matches(key.path.slice(0, path.length), path));
