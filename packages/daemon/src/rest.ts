/** What berthd does when nobody wants anything of it: what a burst of work has left behind goes back to the system. */
import { flushCompileCache } from "node:module";
import { performance } from "node:perf_hooks";

/** ms; how long it must have been quiet. */
const QUIET_MS = 10_000;
/** The share of that time in which the event loop may have had work: a kubelet of a few pods that looks after them. */
const QUIET_SHARE = 0.005;
/** Bytes that the heap must have grown by since the last time: less is not worth a pause of some 30 ms. */
const WORTH = 1 << 20;
/** Looks until the second collection: code that has not run for half a minute goes at the next one (V8's --bytecode-old-time). */
const LOOKS_BETWEEN = 4;

interface Rest {
  /** Node's `gc`, where it was started with --expose-gc (bin/berthd); without it V8 collects when it needs room. */
  readonly collect: (() => void) | undefined;
  readonly heapUsed: () => number;
  /** The share since the last time that it was asked. */
  readonly busy: () => number;
}

/** One look, every QUIET_MS; the function remembers what the last one found. */
export function restful({ collect, heapUsed, busy }: Rest): () => void {
  let [least, looksLeft] = [0, 0];
  return () => {
    if (busy() > QUIET_SHARE) return;
    if (heapUsed() - least >= WORTH) looksLeft = LOOKS_BETWEEN;
    else if (looksLeft === 0 || --looksLeft > 0) return;
    collect?.();
    least = heapUsed();
    // Modules that were first wanted since the start: a daemon that is killed later has no exit to write their code at.
    flushCompileCache();
  };
}

export function restWhenQuiet(): Disposable {
  let last = performance.eventLoopUtilization();
  const busy = (): number => {
    const { utilization } = performance.eventLoopUtilization(last);
    last = performance.eventLoopUtilization();
    return utilization;
  };
  const collect = globalThis.gc as (() => void) | undefined;
  const look = restful({ collect, heapUsed: () => process.memoryUsage().heapUsed, busy });
  const timer = setInterval(look, QUIET_MS).unref();
  return { [Symbol.dispose]: () => clearInterval(timer) };
}
