/** The OCI runtime's decisions: configuration in, plan out. */
export {
  PlanError,
  type CompiledFilter,
  type ContainerContext,
  type ExecContext,
  type ExecTarget,
  type Planned,
  type Rootfs,
} from "./context.ts";
export { planContainer } from "./container.ts";
export { intelRdtRemoval } from "./rdt.ts";
export { planRootfsMount } from "./rootfs.ts";
export { planExec } from "./exec.ts";
export { features } from "./verbs/features.ts";
export {
  type BinaryCall,
  planBinaryContainer,
  planBinaryExec,
  planBinaryRestore,
  runtimeCommand,
  type RuntimeBinary,
} from "./binary.ts";
export { readBundle, type Bundle } from "./bundle.ts";
export {
  cgroupRemoval,
  compileSeccomp,
  describePlan,
  cgroupCreation,
  killCgroup,
  probeHost,
  readHost,
  updateResources,
  type HostFacts,
  type Plan,
} from "@berth/kernel";
