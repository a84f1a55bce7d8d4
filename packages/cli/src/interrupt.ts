/** Ctrl-C and its kin, as an AbortSignal: for what must be undone before the process ends. */
import { constants } from "node:os";
import { Failure, SIGNAL_EXIT_BASE } from "./failure.ts";
import type { Shell } from "./shell.ts";

export const ENDING_SIGNALS = ["SIGINT", "SIGTERM", "SIGHUP"] as const;
export type EndingSignal = (typeof ENDING_SIGNALS)[number];

/** Calls `handler` for each signal until disposed; meanwhile they do not end the process. */
export function onSignals({ signals }: Shell, handler: (signal: EndingSignal) => void): Disposable {
  const listeners = ENDING_SIGNALS.map((name) => ({ name, listener: () => handler(name) }));
  for (const { name, listener } of listeners) signals.on(name, listener);
  return {
    [Symbol.dispose]: () => {
      for (const { name, listener } of listeners) signals.off(name, listener);
    },
  };
}

/** Aborts at the first signal, with a Failure that has the exit code which shells expect. */
export function interruptible(shell: Shell): { readonly signal: AbortSignal } & Disposable {
  const controller = new AbortController();
  const undo = onSignals(shell, (name) =>
    controller.abort(new Failure("interrupted", SIGNAL_EXIT_BASE + constants.signals[name])),
  );
  return { signal: controller.signal, [Symbol.dispose]: () => undo[Symbol.dispose]() };
}
