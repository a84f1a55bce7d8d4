/** A guest's own part of its pod's start, in the pod's trace. */
import { instant } from "../../clock.ts";
import type { CriContext } from "../../context.ts";
import type { Machines } from "./machines.ts";

/** Nobody waits for it. A copy of a template has booted before its pod was asked for (`since`, nanoseconds since the epoch). */
export function tellBoot(context: CriContext, machines: Machines, pod: string, since: bigint): void {
  void (async () => {
    const boot = await machines.asked(context, pod, ({ runtime }) => runtime.tools.boot());
    if (!boot || boot.kernelAt < since || boot.servedAt > instant()) return;
    const stage = { operation: "RunPodSandbox", step: "boot of the guest's kernel", pod, container: "" };
    context.telemetry.past(stage, boot.kernelAt, boot.servedAt);
  })();
}
