/** What Linux offers, through bosun or plain files. Knows no containers. */
export { ORDERS, NO_SLOT, PLAN_VERSION, SLOTS, type FieldType, type Fields, type OrderName } from "./orders/table.ts";
export { MESSAGES, NO_ORDER, PHASE, STREAM, TREE, type MessageName } from "./orders/messages.ts";
export type { Bytes, Order, OrderArguments, Plan } from "./orders/plan.ts";
export { decodeOutputs, decodePlan, encodePlan } from "./orders/encode.ts";
export { DecodeError, EncodeError } from "./orders/codec.ts";
export { describePlan, orderWords, type PlanLine } from "./orders/words.ts";

export type {
  CallOptions,
  Command,
  CommandResult,
  Created,
  ExecRequest,
  ExecResult,
  ExecSyncRequest,
  Hand,
  MonitorLink,
  MonitorRequest,
  MonitorState,
  Outputs,
  SessionExit,
  TreeMeta,
  TreeWriter,
} from "./bosun/hand.ts";
export { guestError } from "./bosun/answers.ts";
export { HandLost, MonitorLost, OrderError } from "./bosun/errors.ts";
export { startHand, type HandOptions } from "./bosun/serve.ts";
export { connectHand } from "./bosun/calls.ts";
export { reachPort, reachThrough, type Reach, type RelayOptions } from "./bosun/reach.ts";
export { Front, type Launched, type LaunchOptions } from "./bosun/front.ts";
export { openTree } from "./bosun/connections.ts";
export { connectMonitor, monitorEnded, readRecord, type MonitorRecord } from "./bosun/monitor.ts";
export { RecordingHand, type Recorded, type RecordedEntry, type Script } from "./bosun/recording.ts";

export { featuresOfVersion, probeHost, readHost, type HostFacts, type KernelFeatures } from "./host.ts";
export { atLeast, parseKernelVersion } from "./version.ts";
export {
  cleanCgroupPath,
  cgroupDirectories,
  probeCgroups,
  type CgroupDirectories,
  type CgroupHierarchies,
  type V1Hierarchy,
} from "./cgroups/hierarchy.ts";
export { ResourceError } from "./cgroups/orders.ts";
export {
  CGROUP_SLOT,
  cgroupCreation,
  cgroupJoin,
  cgroupRemoval,
  oomCounter,
  updateResources,
  type CgroupCreation,
} from "./cgroups/resources.ts";
export { killCgroup, processesBelow } from "./cgroups/kill.ts";
export { tallyProcesses, type ProcessLook, type ProcessTally } from "./tally.ts";
export { moveProcesses } from "./cgroups/move.ts";
export { freeze, thaw } from "./cgroups/controllers/freezer.ts";
export { readCgroupStats, type CgroupStats } from "./cgroups/stats.ts";
export { readCgroupDetail, type CgroupDetail } from "./cgroups/detail.ts";
export type { CgroupPressure, Pressure, Stall } from "./cgroups/pressure.ts";
export { readInterfaces, type InterfaceUsage } from "./netdev.ts";

export { findSeccomp } from "./seccomp/here.ts";
export { compileSeccomp } from "./seccomp/compile.ts";
export type { BuiltFilter } from "./seccomp/build.ts";
export { SeccompError } from "./seccomp/constants.ts";
export { defaultSeccomp } from "./seccomp/profile.ts";

export {
  CAP_SYS_ADMIN,
  CAP_SYS_RESOURCE,
  CAPABILITIES,
  capabilitiesOfMask,
  capabilityMask,
  capabilityNames,
  capabilityNumber,
  ownCapabilities,
  statusMask,
  type OwnCapabilities,
} from "./capabilities.ts";
export {
  clampRlimit,
  isRlimitName,
  parseLimits,
  RLIM_INFINITY,
  RLIMITS,
  rlimitValue,
  type Limit,
  type RlimitName,
} from "./rlimits.ts";
export { parseSignal, SIGNAL_MAX, signalName } from "./signals.ts";
export { sysctlFile, sysctlNamespace, type SysctlFile } from "./sysctl.ts";
export {
  fileSystemData,
  MOUNT_ATTR,
  mountOptionNames,
  MS,
  parseMountOptions,
  type MountOptions,
} from "./mountoptions.ts";
export { isMountpoint, parseMountInfo, type MountInfo } from "./mountinfo.ts";
export { CLONE, NAMESPACE_FILES, NAMESPACE_FLAGS } from "./namespaces.ts";
export { hostId, idMapText, overlap } from "./idmap.ts";
export { ownIdentity, type Identity } from "./identity.ts";
export { listOfMask, maskOfList } from "./cpulist.ts";
export { MEMORY_POLICIES, MEMORY_POLICY_FLAGS } from "./mempolicy.ts";
export { MNT_DETACH, O, S } from "./flags.ts";

export { SystemdManager, type TransientUnit, type UnitProperty } from "./systemd/manager.ts";
export { startScope, stopScope, updateScope, type ScopeRequest } from "./systemd/scope.ts";
export { systemdPlace, slicePath, type SystemdPlace } from "./systemd/names.ts";
export { resourceProperties, unitProperties, type PropertyContext } from "./systemd/properties.ts";
export { annotatedProperties } from "./systemd/annotations.ts";
export { DBusError } from "./systemd/marshal.ts";
export { FakeSystemd, type FakeAnswer } from "./systemd/fake.ts";
export { SystemdLink, type LinkOptions } from "./systemd/link.ts";
export { DBusCallError, DBusLost } from "./systemd/bus.ts";
