/** The kinds that berthd has, in the order in which handlers are offered to them. */
import { inProcess } from "./in-process.ts";
import type { RuntimeKind } from "./kind.ts";
import { oci } from "./oci.ts";
import { shim } from "./shim/kind.ts";

export const runtimeKinds: readonly RuntimeKind[] = [inProcess, oci, shim];
