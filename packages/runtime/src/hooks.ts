/** Hooks while a container is made, and the state that they and seccomp's listener are told (config.md, "POSIX-platform Hooks"). */
import type { oci } from "@berth/spec";
import type { PlanBuilder } from "./builder.ts";

/** The hooks that are part of a plan; poststart and poststop belong to whoever starts and deletes. */
export type PlannedHook = "prestart" | "createRuntime" | "createContainer" | "startContainer";

const MS_IN_SECOND = 1000;

export interface StateSource {
  readonly id: string;
  readonly bundle?: string | undefined;
  readonly spec: oci.Spec;
}

/** The state as JSON, parted where the process id goes: bosun alone knows it, and parses no JSON. */
export function stateParts({ id, bundle, spec }: StateSource, status: oci.State["status"]): [string, string] {
  const before = { ociVersion: spec.ociVersion, id, status };
  const after = { bundle: bundle ?? "", ...(spec.annotations && { annotations: spec.annotations }) };
  return [`${JSON.stringify(before).slice(0, -1)},"pid":`, `,${JSON.stringify(after).slice(1)}`];
}

/**
 * prestart and createRuntime run in the runtime's namespaces, by the process that was set aside; the others in the
 * container's. A hook without `env` gets the runtime's own, or the container's where it runs there.
 */
export function addHooks(plan: PlanBuilder, kind: PlannedHook, source: StateSource, status: oci.State["status"]): void {
  const isRuntime = kind === "prestart" || kind === "createRuntime";
  for (const [index, hook] of (source.spec.hooks?.[kind] ?? []).entries()) {
    const { path, args = [path], env, timeout = 0 } = hook;
    const own = kind === "startContainer" ? (source.spec.process?.env ?? []) : [];
    plan.add(
      isRuntime ? "runtime_hook" : "hook",
      {
        path,
        argv: args,
        env: env ?? own,
        inheritEnv: env !== undefined ? 0 : kind === "startContainer" ? 2 : 1,
        timeoutMs: timeout * MS_IN_SECOND,
        state: stateParts(source, status),
      },
      `hooks.${kind}[${index}]`,
    );
  }
}

export function has(spec: oci.Spec, kind: PlannedHook): boolean {
  return (spec.hooks?.[kind] ?? []).length > 0;
}
