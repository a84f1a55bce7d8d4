/** Seccomp's listener: who is told of system calls that the filter hands over (config-linux.md, "seccomp", SCMP_ACT_NOTIFY). */
import type { oci } from "@berth/spec";
import type { PlanBuilder } from "./builder.ts";
import { PlanError, type CompiledFilter } from "./context.ts";
import { stateParts, type StateSource } from "./hooks.ts";

const FIELD = "linux.seccomp.listenerPath";
const WAIT_KILLABLE_RECV = 32n;

export function listens(seccomp: oci.LinuxSeccomp | undefined): boolean {
  return (seccomp?.syscalls ?? []).some(({ action }) => action === "SCMP_ACT_NOTIFY");
}

/** Throws PlanError where calls are to be handed over and nobody is there to take them. */
export function checkListener(plan: PlanBuilder, seccomp: oci.LinuxSeccomp | undefined): void {
  const { listenerPath = "", listenerMetadata = "" } = seccomp ?? {};
  if (listens(seccomp)) {
    if (!listenerPath.startsWith("/"))
      throw new PlanError(FIELD, "SCMP_ACT_NOTIFY needs the absolute path of the listener's socket");
  } else if (listenerPath !== "") plan.warn(`${FIELD}: has no meaning: no rule's action is SCMP_ACT_NOTIFY`);
  if (listenerMetadata !== "" && listenerPath === "")
    throw new PlanError("linux.seccomp.listenerMetadata", "needs linux.seccomp.listenerPath");
}

/**
 * The filter, and where it listens before it the order that says to whom. `containerPid`: of the container, where the
 * filter is for a further process in it.
 */
export function addFilter(
  plan: PlanBuilder,
  filter: CompiledFilter,
  seccomp: oci.LinuxSeccomp | undefined,
  source: StateSource,
  containerPid?: number,
  isOrdinary = false,
): void {
  const isHeard = listens(seccomp);
  if (isHeard) {
    // An ordinary user may not take a descriptor of a process that is not dumpable; exec, or the change of user, undoes it.
    if (isOrdinary) plan.add("dumpable", { value: 1 }, FIELD);
    const path = seccomp?.listenerPath ?? "";
    plan.add("seccomp_listener", { path, state: processState(seccomp, source, containerPid) }, FIELD);
  }
  // The kernel takes the flag for a filter with a listener alone.
  const flags = isHeard ? filter.flags : filter.flags & ~WAIT_KILLABLE_RECV;
  plan.add("seccomp", { flags, filter: filter.filter }, "linux.seccomp");
}

/** runtime-spec's ContainerProcessState, parted where the process ids go. */
function processState(
  seccomp: oci.LinuxSeccomp | undefined,
  source: StateSource,
  containerPid: number | undefined,
): readonly string[] {
  const { listenerMetadata = "" } = seccomp ?? {};
  const [before, after] = stateParts(source, containerPid === undefined ? "creating" : "running");
  const start = `{"ociVersion":${JSON.stringify(source.spec.ociVersion)},"fds":["seccompFd"],"pid":`;
  const middle = `,"metadata":${JSON.stringify(listenerMetadata)},"state":${before}`;
  return containerPid === undefined ? [start, middle, `${after}}`] : [start, `${middle}${containerPid}${after}}`];
}
