/** Pods in virtual machines: configuration, guest images, hypervisors, storage and network for guests. */
export { Cache } from "./factory/cache.ts";
export { Factory } from "./factory/factory.ts";
export { VmError, type VmErrorCode } from "./errors.ts";
export {
  DEFAULT_PATHS,
  findConfiguration,
  loadSettings,
  settingsOf,
  type VmSettings,
} from "./configuration/settings.ts";
export {
  buildImage,
  type BuildOptions,
  DEFAULT_IMAGE_DIRECTORY,
  readImage,
  type ImageDescription,
} from "./image/build.ts";
export { forgetDirectVolumes } from "./storage/direct-volumes.ts";
export { findMachine, type MachineRequest, type PodMachine, startMachine } from "./sandbox/machine.ts";
export { removeMachine } from "./sandbox/remove.ts";
export { type MachineCache, machineDirectory, type VmHost } from "./sandbox/host.ts";
export {
  type GuestContainer,
  type GuestExec,
  type GuestInit,
  type GuestPlaces,
  type GuestProcess,
  type GuestRuntime,
} from "./guest/runtime.ts";
export { standInOom, standInPlan } from "./guest/stand-in.ts";
export { releaseStorage, shareContainer, type SharedContainer, unshareContainer } from "./guest/share.ts";
export { cpusOf, type Limits, sizeMachine } from "./sandbox/size.ts";
export { plugDevices, unplugDevices } from "./sandbox/devices.ts";
export { UNLIMITED } from "./hypervisor/machine.ts";
export { pinOrders, unpinOrders } from "./network/namespace.ts";
export { refreshNetwork } from "./network/refresh.ts";
export { guestFilesOf } from "./sandbox/files.ts";
export { hypervisorOf, hypervisorProgram, virtiofsdOf } from "./hypervisor/drivers.ts";
export { manageMachine, type ManagedMachine } from "./management/machine.ts";
export { DEFAULT_STATE, sandboxesOf } from "./management/place.ts";
export { removeManagement } from "./management/server.ts";
export { MachineCounters } from "./monitor/sandbox.ts";
export { allowSandbox, type Guard, guardedMachine } from "./policy/guarded.ts";
export { DEFAULT_POLICY, PodPolicy } from "./policy/pod.ts";
