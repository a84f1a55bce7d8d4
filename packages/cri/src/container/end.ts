/** Ends a container at once, whatever it is doing: for StopPodSandbox and the removals. */
import type { CriContext } from "../context.ts";
import type { Container } from "../store/records.ts";
import { killCgroup, type MonitorLink, MonitorLost } from "@berth/kernel";

const SIGKILL = 9;

export async function endContainer(context: CriContext, container: Container): Promise<void> {
  if (container.link) await signalProcess(container.link, SIGKILL);
  // A container in a PID namespace that outlives it has more processes than the one its monitor knows.
  if (container.record.phase !== "exited") await killCgroup(container.record.cgroupPath, context.host);
  await container.ended;
}

/** A monitor that has gone meanwhile has seen the process end; its exit is recorded all the same. */
export async function signalProcess(link: MonitorLink, signal: number): Promise<void> {
  try {
    await link.kill(0, signal);
  } catch (error) {
    if (!(error instanceof MonitorLost)) throw error;
  }
}
