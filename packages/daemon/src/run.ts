/** The daemon's life: configuration, assembly, signals. */
import { flushCompileCache } from "node:module";
import { pino } from "pino";
import { assemble, type Daemon } from "./assemble.ts";
import { describe } from "./config/check.ts";
import { loadDocument } from "./config/load.ts";
import { type Given, settingsOf } from "./config/settings.ts";
import type { Flags } from "./options.ts";
import { type Notifier, notifier } from "./notify.ts";
import { reload } from "./reload.ts";
import { restWhenQuiet } from "./rest.ts";

export interface RunOptions {
  readonly flags: Flags;
  readonly version: string;
  /** The binary beside this program. */
  readonly bosun: string;
}

export async function runDaemon({ flags, version, bosun }: RunOptions): Promise<void> {
  const log = pino({ level: flags.logLevel ?? "info", timestamp: pino.stdTimeFunctions.isoTime, base: null });
  const read = async (): Promise<Given> => settingsOf(await loadDocument(flags), flags, bosun);
  try {
    const { settings, problems } = await read();
    log.level = settings.logLevel;
    for (const problem of problems) if (problem.severity === "warning") log.warn({}, describe(problem));
    const daemon = await assemble({ settings, version, log });
    for (const line of daemon.recovered) log.info({}, line);
    for (const warning of daemon.context.host.warnings) log.warn({}, warning);
    const { addresses, root, state } = settings;
    const manager = notifier(daemon.context.hand, process.env, (error) =>
      log.warn({ err: error }, "could not tell the service manager"),
    );
    log.info({ addresses, root, state, pid: process.pid }, "berthd is ready");
    await manager.ready(`serves ${addresses.join(" and ")}`);
    // Written at an exit, which a daemon that is killed does not have: without it the next start takes seconds.
    flushCompileCache();
    restWhenQuiet();
    process.on("SIGHUP", () => void manager.reloading(() => reload(daemon, read, log)));
    stopOnSignal(daemon, manager, log);
  } catch (error) {
    log.fatal({ err: error }, error instanceof Error ? error.message : String(error));
    process.exitCode = 1;
  }
}

function stopOnSignal(daemon: Daemon, manager: Notifier, log: pino.Logger): void {
  let stopping = false;
  const stop = (signal: NodeJS.Signals): void => {
    if (stopping) return;
    stopping = true;
    log.info({ signal }, "berthd stops; containers run on");
    const closed = manager[Symbol.asyncDispose]().then(() => daemon.close());
    closed.then(
      () => log.info({}, "berthd has stopped"),
      (error: unknown) => {
        log.error({ err: error }, "berthd did not stop cleanly");
        process.exitCode = 1;
      },
    );
  };
  process.on("SIGTERM", stop).on("SIGINT", stop);
}
