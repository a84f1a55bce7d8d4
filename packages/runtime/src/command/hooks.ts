/** The hooks of no process that is being made: poststart, once the container's program runs, and poststop, once all is gone. */
import type { Front, Plan } from "@berth/kernel";
import type { ContainerRecord, StateDirectory } from "../state/record.ts";
import { removeContainer } from "../state/removal.ts";
import { ociState } from "../state/status.ts";
import { CommandError } from "./failure.ts";
import { hookFailure } from "./order-failure.ts";

const MS_IN_SECOND = 1000;
const STATUS = { poststart: "running", poststop: "stopped" } as const;

/** In the runtime's namespaces, in the order of the configuration. `directory`: where they run, if not where the caller is. */
export function hookPlan(record: ContainerRecord, kind: keyof typeof STATUS, directory?: string): Plan {
  const state = JSON.stringify(ociState(record, STATUS[kind]));
  const hooks = record.berth.spec.hooks?.[kind] ?? [];
  const there: Plan["orders"] =
    directory === undefined || hooks.length === 0
      ? []
      : [{ order: "chdir", args: { path: directory, tolerate: 0 }, because: "hooks" }];
  return {
    orders: there.concat(
      hooks.map(({ path, args = [path], env, timeout = 0 }, index) => ({
        order: "hook",
        args: {
          path,
          argv: args,
          env: env ?? [],
          inheritEnv: env === undefined ? 1 : 0,
          timeoutMs: timeout * MS_IN_SECOND,
          state: [state],
        },
        because: `hooks.${kind}[${index}]`,
      })),
    ),
  };
}

/** One that fails stops and removes the container (runtime.md, "Lifecycle"). Throws CommandError. */
export function runPoststart(record: ContainerRecord, states: StateDirectory, front: Front, directory?: string): void {
  try {
    front.run(hookPlan(record, "poststart", directory));
  } catch (error) {
    removeContainer(record, states);
    throw new CommandError(hookFailure(error), { cause: error });
  }
}

/** One that fails keeps neither the others from running nor the container: what it said is returned. */
export function runPoststop(record: ContainerRecord, front: Front): string[] {
  return hookPlan(record, "poststop").orders.flatMap((order) => {
    try {
      front.run({ orders: [order] });
      return [];
    } catch (error) {
      return [hookFailure(error)];
    }
  });
}
