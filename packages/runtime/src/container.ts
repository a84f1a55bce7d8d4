import type { oci } from "@berth/spec";
import { PlanError, type ContainerContext, type Planned } from "./context.ts";
export function planContainer(spec: oci.Spec, context: ContainerContext): Planned { void spec; void context; throw new PlanError("", "not yet"); }
