export interface SpecProblem { readonly field: string; readonly message: string }
export interface SpecReport { readonly errors: readonly SpecProblem[]; readonly warnings: readonly SpecProblem[] }
import type { Spec } from "./runtime.ts";
export function validateSpec(spec: Spec): SpecReport { void spec; return { errors: [], warnings: [] }; }
