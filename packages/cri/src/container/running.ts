/** A container that must be running for what a call asks of it, with its OCI config (read back after a restart). */
import { readFile } from "node:fs/promises";
import type { MonitorLink } from "@berth/kernel";
import { oci } from "@berth/spec/oci";
import { containerDir, type CriContext } from "../context.ts";
import { precondition } from "../errors.ts";
import type { Container } from "../store/records.ts";

export interface Running {
  readonly container: Container;
  readonly link: MonitorLink;
  readonly spec: oci.Spec;
}

export async function runningContainer(context: CriContext, id: string): Promise<Running> {
  const container = context.containers.get(id);
  const { record, link } = container;
  if (record.phase !== "running" || !link)
    throw precondition(`container "${record.id}" is not running (it is ${record.phase})`);
  return { container, link, spec: await specOf(context, container) };
}

export async function specOf(context: CriContext, container: Container): Promise<oci.Spec> {
  container.spec ??= oci.parseSpec(await readFile(`${containerDir(context, container.record.id)}/config.json`, "utf8"));
  return container.spec;
}
