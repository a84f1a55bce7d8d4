/** Hooks that run beside a container: when its program runs, and when all of it is gone (runtime-spec, "Lifecycle"). */
import type { Hand } from "@berth/kernel";
import type { oci } from "@berth/spec";

interface Hooked {
  readonly id: string;
  readonly bundle: string;
  readonly pid: number;
  readonly spec: oci.Spec;
}

const MS_IN_SECOND = 1_000;

/** One that fails is only told of. */
export async function runHooks(
  { hand, log }: { readonly hand: Hand; readonly log: (message: string) => void },
  { id, bundle, pid, spec }: Hooked,
  kind: "poststart" | "poststop",
): Promise<void> {
  const { ociVersion, annotations, hooks } = spec;
  const state = JSON.stringify({
    ociVersion,
    id,
    status: kind === "poststart" ? "running" : "stopped",
    ...(kind === "poststart" && { pid }),
    bundle,
    annotations,
  });
  for (const [index, { path, args = [path], env, timeout = 0 }] of (hooks?.[kind] ?? []).entries()) {
    const hook = {
      path,
      argv: args,
      env: env ?? [],
      inheritEnv: env === undefined ? 1 : 0,
      timeoutMs: timeout * MS_IN_SECOND,
      state: [state],
    };
    const because = `hooks.${kind}[${index}]`;
    await hand.run({ orders: [{ order: "hook", args: hook, because }] }).catch((error: Error) => log(error.message));
  }
}
