/** What berthd tells the service manager that started it: ready, reloading, stopping, alive (sd_notify(3)). */
import type { Hand } from "@berth/kernel";

/** Microseconds in a millisecond. */
const MICROSECONDS = 1000;

export interface Notifier extends AsyncDisposable {
  ready(status: string): Promise<void>;
  /** `work` is a reload of the configuration. */
  reloading(work: () => Promise<void>): Promise<void>;
}

interface Environment {
  NOTIFY_SOCKET?: string;
  WATCHDOG_USEC?: string;
  WATCHDOG_PID?: string;
}

const SILENT: Notifier = {
  ready: () => Promise.resolve(),
  reloading: (work) => work(),
  [Symbol.asyncDispose]: () => Promise.resolve(),
};

/**
 * Takes the manager's variables out of `environment`, so that no program that berthd starts speaks for it. The watchdog is fed by way
 * of bosun, twice in each period: a daemon whose loop or whose hand hangs is started anew.
 */
export function notifier(hand: Hand, environment: Environment, onError: (error: unknown) => void): Notifier {
  const { NOTIFY_SOCKET: socket, WATCHDOG_USEC: period, WATCHDOG_PID: watched } = environment;
  for (const name of ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"] as const) delete environment[name];
  if (socket === undefined) return SILENT;
  const send = async (...lines: string[]): Promise<void> => {
    try {
      await hand.run({ orders: [{ order: "notify", args: { socket, text: lines.join("\n") } }] });
    } catch (error) {
      onError(error);
    }
  };
  const every = watched === undefined || watched === String(process.pid) ? Number(period ?? 0) / MICROSECONDS / 2 : 0;
  const timer = every > 0 ? setInterval(() => void send("WATCHDOG=1"), every) : undefined;
  timer?.unref();
  const main = `MAINPID=${process.pid}`;
  return {
    ready: (status) => send("READY=1", main, `STATUS=${status}`),
    reloading: async (work) => {
      await send("RELOADING=1", `MONOTONIC_USEC=${process.hrtime.bigint() / BigInt(MICROSECONDS)}`);
      await work();
      await send("READY=1");
    },
    [Symbol.asyncDispose]: async () => {
      clearInterval(timer);
      await send("STOPPING=1");
    },
  };
}
