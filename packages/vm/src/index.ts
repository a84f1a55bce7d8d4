/** Pods in virtual machines: configuration, guest images, hypervisors, storage and network for guests. */
export { VmError, type VmErrorCode } from "./errors.ts";
export {
  DEFAULT_PATHS,
  findConfiguration,
  loadSettings,
  settingsOf,
  type VmSettings,
} from "./configuration/settings.ts";
export { buildImage, DEFAULT_IMAGE_DIRECTORY, readImage, type ImageDescription } from "./image/build.ts";
export { findMachine, type MachineRequest, type PodMachine, removeMachine, startMachine } from "./sandbox/machine.ts";
export {
  guestContainer,
  GUEST_SHARE,
  GUEST_SHM,
  machineDirectory,
  relaySocket,
  shareWritable,
  type VmHost,
} from "./sandbox/host.ts";
export { type SharedMount, shareMountOrders, unmountOrder } from "./sandbox/share.ts";
export { guestFilesOf } from "./sandbox/files.ts";
export { hypervisorProgram, virtiofsdOf } from "./hypervisor/choose.ts";
