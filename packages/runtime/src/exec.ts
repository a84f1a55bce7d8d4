import type { oci } from "@berth/spec";
import { PlanError, type ExecContext, type ExecTarget, type Planned } from "./context.ts";
export function planExec(target: ExecTarget, process: oci.Process, context: ExecContext): Planned { void target; void process; void context; throw new PlanError("", "not yet"); }
