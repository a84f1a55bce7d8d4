/** Ends a container at once, whatever it is doing: for StopPodSandbox and the removals. */
import type { CriContext } from "../context.ts";
import { kindOf } from "../runtimes/find.ts";
import type { Container } from "../store/records.ts";

export async function endContainer(context: CriContext, container: Container): Promise<void> {
  await kindOf(context, container.record).kill(context, container);
  await container.ended;
}
