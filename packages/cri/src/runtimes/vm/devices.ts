/** The host's devices in a pod's machine: which they are, and what of them a container's end has to give back. */
import { readFile, writeFile } from "node:fs/promises";
import type { oci } from "@berth/spec";
import { plugDevices, type PodMachine, unplugDevices } from "@berth/vm";
import { containerDir, type CriContext } from "../../context.ts";

/** Nodes of the devices that a pod's CDI annotations name: known before its machine is started. */
export async function podDevices(
  context: CriContext,
  annotations: Readonly<Record<string, string>>,
): Promise<string[]> {
  const { devicesOfAnnotations } = await import("@berth/cdi");
  const names = devicesOfAnnotations(annotations);
  if (names.length === 0) return [];
  const spec = await context.cdi.inject(context.config.cdiSpecDirs, { ociVersion: "1.2.0" }, names);
  return (spec.linux?.devices ?? []).map(({ path }) => path);
}

const file = (context: CriContext, id: string): string => `${containerDir(context, id)}/devices.json`;

/** The container's config without the nodes of what has been plugged for it. */
export async function takeDevices(
  context: CriContext,
  machine: PodMachine,
  id: string,
  spec: oci.Spec,
): Promise<oci.Spec> {
  const nodes = (spec.linux?.devices ?? []).map(({ path }) => path).filter((path) => path.startsWith("/dev/vfio/"));
  if (nodes.length === 0) return spec;
  // Before they are: what was begun is given back.
  await writeFile(file(context, id), JSON.stringify(nodes));
  return await plugDevices(machine, spec);
}

export async function releaseDevices(context: CriContext, machine: PodMachine, id: string): Promise<void> {
  let text: string;
  try {
    text = await readFile(file(context, id), "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return;
    throw error;
  }
  await unplugDevices(machine, JSON.parse(text) as string[]);
}
