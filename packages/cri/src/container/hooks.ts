/**
 * OCI hooks after a container is made (config.md, "POSIX-platform Hooks"): poststart and poststop run in berthd's namespaces, by
 * bosun. One that fails is logged and changes nothing. Those before are orders of the container's own plan.
 */
import type { oci } from "@berth/spec";
import { containerDir, type CriContext } from "../context.ts";
import { kindOf } from "../runtimes/find.ts";
import type { Container } from "../store/records.ts";
import { specOf } from "./running.ts";

const MS_IN_SECOND = 1000;
/** Bytes of a failing hook's output that are logged. */
const SAID = 400;

export async function runHooks(
  context: CriContext,
  container: Container,
  kind: "poststart" | "poststop",
  status: oci.State["status"],
): Promise<void> {
  if (!kindOf(context, container.record).leavesHooks) return;
  const spec = await specOf(context, container).catch((error: NodeJS.ErrnoException) => {
    // Removed half-made, or for the second time: there was no container, or its hooks have run.
    if (error.code === "ENOENT") return undefined;
    throw error;
  });
  if (!spec) return;
  for (const [index, hook] of (spec.hooks?.[kind] ?? []).entries()) {
    const problem = await runHook(context, hook, stateOf(context, container, spec, status));
    if (problem !== undefined)
      context.log.warn(
        { container: container.record.id, hook: `hooks.${kind}[${index}]` },
        `hook ${hook.path}: ${problem}`,
      );
  }
}

function stateOf(context: CriContext, { record }: Container, spec: oci.Spec, status: oci.State["status"]): oci.State {
  return {
    ociVersion: spec.ociVersion,
    id: record.id,
    status,
    ...(status !== "stopped" && { pid: record.pid }),
    bundle: containerDir(context, record.id),
    annotations: spec.annotations,
  };
}

/** What went wrong; undefined: nothing. */
async function runHook(context: CriContext, hook: oci.Hook, state: oci.State): Promise<string | undefined> {
  const { path, args = [path], env, timeout } = hook;
  try {
    const { status, stdout, stderr } = await context.hand.spawn(
      {
        // The program is `path` whatever its argv[0]; serve looks argv[0] up, and only the rest is the hook's to choose.
        argv: [path, ...args.slice(1)],
        env: environment(env),
        stdin: Buffer.from(JSON.stringify(state)),
        limit: SAID,
      },
      timeout === undefined ? {} : { timeoutMs: timeout * MS_IN_SECOND },
    );
    if (status === 0) return undefined;
    return `ended with status ${status}: ${Buffer.from(stderr.length > 0 ? stderr : stdout)
      .toString()
      .trim()}`;
  } catch (error) {
    return (error as Error).message;
  }
}

/** A hook without `env` gets berthd's own. */
function environment(env: readonly string[] | undefined): Record<string, string> {
  const entries = env?.map((entry) => [entry.split("=", 1)[0] ?? "", entry.slice(entry.indexOf("=") + 1)]);
  return Object.fromEntries(
    entries ?? Object.entries(process.env).filter((entry): entry is [string, string] => entry[1] !== undefined),
  ) as Record<string, string>;
}
