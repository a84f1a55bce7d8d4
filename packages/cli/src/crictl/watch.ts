/** --watch: again and again until Ctrl-C. */
import { setTimeout as sleep } from "node:timers/promises";
import { onSignals } from "../interrupt.ts";
import type { Context } from "./command.ts";

const PERIOD_MS = 500;
/** Clears the screen and goes to its beginning. */
export const CLEAR = "\x1b[2J\x1b[H";

export async function repeatedly(context: Context, show: () => Promise<void>): Promise<void> {
  if (!context.flags.bool("watch")) return show();
  const ended = new AbortController();
  using _ = onSignals(context.shell, () => ended.abort());
  while (!ended.signal.aborted) {
    await show();
    await sleep(PERIOD_MS, undefined, { signal: ended.signal }).catch(() => undefined);
  }
}
