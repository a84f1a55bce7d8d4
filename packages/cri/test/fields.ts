/**
 * Every field of every request of the CRI, and what berth makes of it: honoured (and the test that shows it), refused (with the
 * error), or of no instruction to a runtime (and why). fields.test.ts holds it against the descriptors and the sources;
 * docs/cri-fields.md is made from it (fields-document.ts).
 */
export type Row =
  /** "FILE: TITLE", the title or its beginning. */
  | { readonly honoured: string }
  /** The error's words, as they are in the test that `shown` names. */
  | { readonly refused: string; readonly shown: string }
  | { readonly none: string };

const honoured = (test: string): Row => ({ honoured: test });
const refused = (error: string, shown: string): Row => ({ refused: error, shown });
const none = (why: string): Row => ({ none: why });

const INSIDE = "tests/inside.test.ts";
const LIFE = "tests/lifecycle.test.ts";
const REQUESTS = "tests/requests.test.ts";
const RESOURCES = "tests/resources.test.ts";
const STATS = "tests/stats.test.ts";
const USERNS = "tests/userns.test.ts";
const VOLUMES = "tests/volumes.test.ts";
const BAD = "tests/bad-input.test.ts";
const REGISTRY = "packages/image/test/client.test.ts";

const metadata = honoured(`${REQUESTS}: metadata, labels, annotations and log paths`);
const files = honoured(`${INSIDE}: the pod's files, name, sysctls and shared memory`);
const prefix = honoured(`${LIFE}: ids are found by an unambiguous prefix`);
const filtered = honoured(`${LIFE}: lists are filtered by id, state, pod and labels`);
const userns = honoured(`${USERNS}: what cannot be is refused by name`);
const users = honoured(`${INSIDE}: users and groups: by number, by name`);
const seccomp = honoured(`${REQUESTS}: seccomp: a profile of the node's`);
const apparmor = honoured(`${REQUESTS}: AppArmor: default and unconfined always run`);
const podContext = honoured(`${REQUESTS}: the pod's security context is that of its init`);
const hostPort = honoured(`${LIFE}: a host port reaches the container's port`);
const limits = honoured(`${RESOURCES}: CPU, memory and swap change while it runs`);
const capabilities = honoured(`${INSIDE}: capabilities: the default set, added, dropped`);
const process = honoured(`${INSIDE}: environment, arguments, working directory`);
const device = honoured(`${REQUESTS}: devices: under another name`);
const imageVolume = honoured(`${VOLUMES}: an image as a volume`);
const statsFilter = honoured(`${STATS}: lists and streams answer the same, filtered`);
const windows = refused("this node runs Linux", `${REQUESTS}: sandboxes and containers for Windows are refused`);
const selinux = honoured(`${VOLUMES}: SELinux: relabelling and labels are without effect`);
const checkpoint = honoured("tests/checkpoint.test.ts: an archive in the kubelet's format");
const verbose = honoured(`${REQUESTS}: what is verbose`);
const podCidr = honoured("tests/config.test.ts: conf_template: the kubelet's pod CIDR");
const execs = honoured("tests/streaming.test.ts: outputs apart, and the exit code");
const attaches = honoured("tests/streaming.test.ts: a million lines reach a client");
const forwards = honoured("tests/streaming.test.ts: connections one after another");

export const FIELDS: Readonly<Record<string, Row>> = {
  "VersionRequest.version": none("the version of the kubelet's own API, for information; Version answers v1"),

  "RunPodSandboxRequest.config": metadata,
  "RunPodSandboxRequest.runtime_handler": honoured(`${BAD}: pods`),
  "PodSandboxConfig.metadata": metadata,
  "PodSandboxConfig.hostname": files,
  "PodSandboxConfig.log_directory": honoured(`${REQUESTS}: a log directory is made`),
  "PodSandboxConfig.dns_config": files,
  "PodSandboxConfig.port_mappings": hostPort,
  "PodSandboxConfig.labels": metadata,
  "PodSandboxConfig.annotations": metadata,
  "PodSandboxConfig.linux": files,
  "PodSandboxConfig.windows": windows,
  "PodSandboxMetadata.name": metadata,
  "PodSandboxMetadata.uid": metadata,
  "PodSandboxMetadata.namespace": metadata,
  "PodSandboxMetadata.attempt": metadata,
  "DNSConfig.servers": files,
  "DNSConfig.searches": files,
  "DNSConfig.options": files,
  "PortMapping.protocol": honoured(`${REQUESTS}: port mappings: UDP`),
  "PortMapping.container_port": hostPort,
  "PortMapping.host_port": hostPort,
  "PortMapping.host_ip": honoured(`${REQUESTS}: port mappings: UDP`),
  "LinuxPodSandboxConfig.cgroup_parent": honoured(`${STATS}: a container's numbers are its cgroup's`),
  "LinuxPodSandboxConfig.security_context": podContext,
  "LinuxPodSandboxConfig.sysctls": files,
  "LinuxPodSandboxConfig.overhead": honoured(`${RESOURCES}: a pod's resources are recorded`),
  "LinuxPodSandboxConfig.resources": honoured(`${RESOURCES}: a pod's resources are recorded`),
  "LinuxSandboxSecurityContext.namespace_options": honoured(`${LIFE}: host network, PID and IPC namespaces`),
  "LinuxSandboxSecurityContext.selinux_options": selinux,
  "LinuxSandboxSecurityContext.run_as_user": podContext,
  "LinuxSandboxSecurityContext.run_as_group": podContext,
  "LinuxSandboxSecurityContext.readonly_rootfs": none(
    "of the pod's own process, whose root is an empty read-only file system always",
  ),
  "LinuxSandboxSecurityContext.supplemental_groups": podContext,
  "LinuxSandboxSecurityContext.supplemental_groups_policy": none(
    "of the pod's own process, which has no image whose groups could be merged",
  ),
  "LinuxSandboxSecurityContext.privileged": honoured(`${INSIDE}: privileged: every capability`),
  "LinuxSandboxSecurityContext.seccomp": podContext,
  "LinuxSandboxSecurityContext.apparmor": apparmor,
  "LinuxSandboxSecurityContext.seccomp_profile_path": seccomp,
  "NamespaceOption.network": honoured(`${LIFE}: host network, PID and IPC namespaces`),
  "NamespaceOption.pid": honoured(`${LIFE}: pods with a shared PID namespace`),
  "NamespaceOption.ipc": honoured(`${LIFE}: host network, PID and IPC namespaces`),
  "NamespaceOption.target_id": honoured(`${REQUESTS}: a debugging container joins its target's PID namespace`),
  "NamespaceOption.userns_options": userns,
  "UserNamespace.mode": userns,
  "UserNamespace.uids": userns,
  "UserNamespace.gids": userns,
  "IDMapping.host_id": honoured(`${VOLUMES}: id-mapped`),
  "IDMapping.container_id": userns,
  "IDMapping.length": userns,
  "SELinuxOption.user": selinux,
  "SELinuxOption.role": selinux,
  "SELinuxOption.type": selinux,
  "SELinuxOption.level": selinux,
  "Int64Value.value": users,
  "SecurityProfile.profile_type": seccomp,
  "SecurityProfile.localhost_ref": seccomp,

  "LinuxContainerResources.cpu_period": limits,
  "LinuxContainerResources.cpu_quota": limits,
  "LinuxContainerResources.cpu_shares": limits,
  "LinuxContainerResources.memory_limit_in_bytes": limits,
  "LinuxContainerResources.oom_score_adj": honoured(`${RESOURCES}: the OOM score`),
  "LinuxContainerResources.cpuset_cpus": honoured(`${RESOURCES}: a CPU set`),
  "LinuxContainerResources.cpuset_mems": honoured(`${RESOURCES}: a CPU set`),
  "LinuxContainerResources.hugepage_limits": honoured(`${RESOURCES}: huge pages`),
  "LinuxContainerResources.unified": honoured(`${RESOURCES}: the number of processes`),
  "LinuxContainerResources.memory_swap_limit_in_bytes": limits,
  "HugepageLimit.page_size": honoured(`${RESOURCES}: huge pages`),
  "HugepageLimit.limit": honoured(`${RESOURCES}: huge pages`),

  "StopPodSandboxRequest.pod_sandbox_id": honoured(`${LIFE}: Stop and Remove are idempotent`),
  "RemovePodSandboxRequest.pod_sandbox_id": honoured(`${LIFE}: Stop and Remove are idempotent`),
  "PodSandboxStatusRequest.pod_sandbox_id": prefix,
  "PodSandboxStatusRequest.verbose": honoured(`${RESOURCES}: a pod's resources are recorded`),
  "ListPodSandboxRequest.filter": filtered,
  "PodSandboxFilter.id": filtered,
  "PodSandboxFilter.state": filtered,
  "PodSandboxFilter.label_selector": filtered,
  "PodSandboxStateValue.state": filtered,
  "StreamPodSandboxesRequest.filter": honoured(`${REQUESTS}: lists as streams`),

  "CreateContainerRequest.pod_sandbox_id": prefix,
  "CreateContainerRequest.config": metadata,
  "CreateContainerRequest.sandbox_config": none("the pod's configuration was recorded when it was run, and counts"),
  "ContainerConfig.metadata": metadata,
  "ContainerConfig.image": honoured(`${BAD}: containers`),
  "ContainerConfig.command": process,
  "ContainerConfig.args": process,
  "ContainerConfig.working_dir": process,
  "ContainerConfig.envs": process,
  "ContainerConfig.mounts": honoured(`${INSIDE}: volumes: read-write, read-only`),
  "ContainerConfig.devices": device,
  "ContainerConfig.labels": metadata,
  "ContainerConfig.annotations": metadata,
  "ContainerConfig.log_path": metadata,
  "ContainerConfig.stdin": honoured(`${REQUESTS}: terminals and standard input`),
  "ContainerConfig.stdin_once": honoured("packages/native/test/monitor-streams.test.ts: stdin of many clients in turn"),
  "ContainerConfig.tty": honoured(`${REQUESTS}: terminals and standard input`),
  "ContainerConfig.linux": limits,
  "ContainerConfig.windows": windows,
  "ContainerConfig.CDI_devices": honoured("tests/cdi.test.ts: a container with four devices of eight"),
  "ContainerConfig.stop_signal": honoured(`${REQUESTS}: stop signals`),
  "ContainerMetadata.name": metadata,
  "ContainerMetadata.attempt": metadata,
  "ImageSpec.image": honoured(`${LIFE}: images are listed, found by every name`),
  "ImageSpec.annotations": metadata,
  "ImageSpec.user_specified_image": metadata,
  "ImageSpec.runtime_handler": none(
    "all runtime handlers share one store of images: an image of one is there for each",
  ),
  "ImageSpec.image_ref": none("the runtime's to fill in, in a container's status"),
  "KeyValue.key": process,
  "KeyValue.value": process,
  "Mount.container_path": honoured(`${INSIDE}: volumes: read-write, read-only`),
  "Mount.host_path": honoured(`${INSIDE}: volumes: read-write, read-only`),
  "Mount.readonly": honoured(`${INSIDE}: volumes: read-write, read-only`),
  "Mount.selinux_relabel": selinux,
  "Mount.propagation": honoured(`${VOLUMES}: propagation`),
  "Mount.uidMappings": honoured(`${VOLUMES}: id-mapped`),
  "Mount.gidMappings": honoured(`${VOLUMES}: id-mapped`),
  "Mount.recursive_read_only": honoured(`${VOLUMES}: recursive read-only`),
  "Mount.image": imageVolume,
  "Mount.image_sub_path": imageVolume,
  "Device.container_path": device,
  "Device.host_path": device,
  "Device.permissions": device,
  "CDIDevice.name": honoured("tests/cdi.test.ts: a container with four devices of eight"),
  "LinuxContainerConfig.resources": limits,
  "LinuxContainerConfig.security_context": users,
  "LinuxContainerSecurityContext.capabilities": capabilities,
  "LinuxContainerSecurityContext.privileged": honoured(`${INSIDE}: privileged: every capability`),
  "LinuxContainerSecurityContext.namespace_options": honoured(
    `${REQUESTS}: a debugging container joins its target's PID namespace`,
  ),
  "LinuxContainerSecurityContext.selinux_options": selinux,
  "LinuxContainerSecurityContext.run_as_user": users,
  "LinuxContainerSecurityContext.run_as_group": users,
  "LinuxContainerSecurityContext.run_as_username": users,
  "LinuxContainerSecurityContext.readonly_rootfs": honoured(`${INSIDE}: a read-only root file system`),
  "LinuxContainerSecurityContext.supplemental_groups": users,
  "LinuxContainerSecurityContext.supplemental_groups_policy": honoured(`${REQUESTS}: supplementary groups`),
  "LinuxContainerSecurityContext.no_new_privs": honoured(`${INSIDE}: no_new_privs and seccomp`),
  "LinuxContainerSecurityContext.masked_paths": honoured(`${INSIDE}: a read-only root file system, masked`),
  "LinuxContainerSecurityContext.readonly_paths": honoured(`${INSIDE}: a read-only root file system, masked`),
  "LinuxContainerSecurityContext.seccomp": seccomp,
  "LinuxContainerSecurityContext.apparmor": apparmor,
  "LinuxContainerSecurityContext.apparmor_profile": apparmor,
  "LinuxContainerSecurityContext.seccomp_profile_path": seccomp,
  "Capability.add_capabilities": capabilities,
  "Capability.drop_capabilities": capabilities,
  "Capability.add_ambient_capabilities": honoured(`${REQUESTS}: ambient capabilities`),

  "StartContainerRequest.container_id": prefix,
  "StopContainerRequest.container_id": honoured(`${LIFE}: Stop and Remove are idempotent`),
  "StopContainerRequest.timeout": honoured(`${LIFE}: a container that ignores TERM is killed after its grace period`),
  "RemoveContainerRequest.container_id": honoured(`${LIFE}: Stop and Remove are idempotent`),
  "ListContainersRequest.filter": filtered,
  "ContainerFilter.id": filtered,
  "ContainerFilter.state": filtered,
  "ContainerFilter.pod_sandbox_id": filtered,
  "ContainerFilter.label_selector": filtered,
  "ContainerStateValue.state": filtered,
  "StreamContainersRequest.filter": honoured(`${REQUESTS}: lists as streams`),
  "ContainerStatusRequest.container_id": prefix,
  "ContainerStatusRequest.verbose": metadata,
  "UpdateContainerResourcesRequest.container_id": honoured(`${RESOURCES}: what is for Windows, and what does not run`),
  "UpdateContainerResourcesRequest.linux": limits,
  "UpdateContainerResourcesRequest.windows": refused(
    "windows: this node runs Linux",
    `${RESOURCES}: what is for Windows, and what does not run`,
  ),
  "UpdateContainerResourcesRequest.annotations": none(
    "unstructured information for plug-ins that look at updates; berth has none that do",
  ),
  "ReopenContainerLogRequest.container_id": honoured("tests/logs.test.ts: a rotated log goes on in a new file"),
  "ExecSyncRequest.container_id": honoured(`${LIFE}: ExecSync answers both streams`),
  "ExecSyncRequest.cmd": honoured(`${LIFE}: ExecSync answers both streams`),
  "ExecSyncRequest.timeout": honoured(`${LIFE}: ExecSync answers both streams`),
  "ExecRequest.container_id": execs,
  "ExecRequest.cmd": execs,
  "ExecRequest.tty": execs,
  "ExecRequest.stdin": execs,
  "ExecRequest.stdout": execs,
  "ExecRequest.stderr": execs,
  "AttachRequest.container_id": attaches,
  "AttachRequest.stdin": attaches,
  "AttachRequest.tty": attaches,
  "AttachRequest.stdout": attaches,
  "AttachRequest.stderr": attaches,
  "PortForwardRequest.pod_sandbox_id": forwards,
  "PortForwardRequest.port": forwards,

  "ContainerStatsRequest.container_id": honoured(`${STATS}: a container's numbers are its cgroup's`),
  "ListContainerStatsRequest.filter": statsFilter,
  "ContainerStatsFilter.id": statsFilter,
  "ContainerStatsFilter.pod_sandbox_id": statsFilter,
  "ContainerStatsFilter.label_selector": statsFilter,
  "StreamContainerStatsRequest.filter": statsFilter,
  "PodSandboxStatsRequest.pod_sandbox_id": honoured(`${STATS}: a pod's numbers`),
  "ListPodSandboxStatsRequest.filter": statsFilter,
  "PodSandboxStatsFilter.id": statsFilter,
  "PodSandboxStatsFilter.label_selector": statsFilter,
  "StreamPodSandboxStatsRequest.filter": statsFilter,
  "UpdateRuntimeConfigRequest.runtime_config": podCidr,
  "RuntimeConfig.network_config": podCidr,
  "NetworkConfig.pod_cidr": podCidr,
  "StatusRequest.verbose": verbose,
  "CheckpointContainerRequest.container_id": checkpoint,
  "CheckpointContainerRequest.location": checkpoint,
  "CheckpointContainerRequest.timeout": honoured("tests/checkpoint.test.ts: a time-out that is too short"),
  "UpdatePodSandboxResourcesRequest.pod_sandbox_id": honoured(`${RESOURCES}: a pod's resources are recorded`),
  "UpdatePodSandboxResourcesRequest.overhead": honoured(`${RESOURCES}: a pod's resources are recorded`),
  "UpdatePodSandboxResourcesRequest.resources": honoured(`${RESOURCES}: a pod's resources are recorded`),

  "ListImagesRequest.filter": verbose,
  "ImageFilter.image": verbose,
  "StreamImagesRequest.filter": honoured(`${REQUESTS}: lists as streams`),
  "ImageStatusRequest.image": honoured(`${LIFE}: images are listed, found by every name`),
  "ImageStatusRequest.verbose": verbose,
  "PullImageRequest.image": honoured(`${BAD}: image references`),
  "PullImageRequest.auth": honoured(`${REGISTRY}: basic authentication`),
  "PullImageRequest.sandbox_config": none(
    "for runtimes that pull into a pod of their own; berth's images are the node's",
  ),
  "AuthConfig.username": honoured(`${REGISTRY}: basic authentication`),
  "AuthConfig.password": honoured(`${REGISTRY}: basic authentication`),
  "AuthConfig.auth": honoured(`${REGISTRY}: basic authentication`),
  "AuthConfig.server_address": honoured(`${REGISTRY}: basic authentication`),
  "AuthConfig.identity_token": honoured(`${REGISTRY}: bearer: an identity token`),
  "AuthConfig.registry_token": honoured(`${REGISTRY}: bearer: an identity token`),
  "RemoveImageRequest.image": honoured(`${LIFE}: images are listed, found by every name`),
};

/** Messages that only a refused field leads to: their fields are refused with it. */
export const BELOW_REFUSED: readonly string[] = [
  "WindowsPodSandboxConfig",
  "WindowsSandboxSecurityContext",
  "WindowsNamespaceOption",
  "WindowsContainerConfig",
  "WindowsContainerResources",
  "WindowsCpuGroupAffinity",
  "WindowsContainerSecurityContext",
];
