/** Specifications that no file has, in a container's configuration. */
import type { oci } from "@berth/spec";
import { applyEdits, type CdiSpec, hostDevice, type SourcedEdits } from "@berth/cdi/injection";
import type { Request } from "../toolkit/request.ts";
import { type Maker, makeSpec } from "./make.ts";

/** What a container asks for by NVIDIA_GDS=enabled and its like. */
export function gatedSpecs(request: Request, maker: Maker): CdiSpec[] {
  return (["gds", "mofed", "gdrcopy", "nvswitch"] as const)
    .filter((mode) => request.env.get(`NVIDIA_${mode.toUpperCase()}`) === "enabled")
    .map((mode) => makeSpec(mode, ["all"], maker));
}

/** All devices of specifications that no file has. */
export async function withSpecs(spec: oci.Spec, specs: readonly CdiSpec[]): Promise<oci.Spec> {
  const sources = specs.flatMap(({ kind, devices, containerEdits }): SourcedEdits[] => [
    ...devices.map(({ name, containerEdits: edits }) => ({ edits, device: `${kind}=${name}` })),
    { edits: containerEdits ?? {} },
  ]);
  return await applyEdits(spec, sources, hostDevice);
}
