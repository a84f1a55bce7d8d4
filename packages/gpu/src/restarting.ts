/** The life of a service's process: SIGHUP starts it anew with the configuration as it is then; SIGTERM, SIGINT and SIGQUIT end it. */
import type { Log } from "./plugin/registrations.ts";

interface Running {
  /** All that it was started for is done: the process ends. */
  readonly isDone?: boolean;
  close(): Promise<void>;
}

const RETRY_MS = 30_000;

/**
 * A configuration that cannot be read leaves what runs as it is. A first start that fails ends the process with status 1; a later
 * one is tried again.
 */
export function restarting<C>(read: () => C, start: (configuration: C) => Promise<Running>, log: Log): void {
  // One thing at a time: a SIGHUP during a start waits for it.
  let turn: Promise<Running | undefined> = Promise.resolve(undefined);
  let begun = false;
  const restart = (): void => {
    turn = turn.then(async (running) => {
      let configuration: C;
      try {
        configuration = read();
      } catch (error) {
        log.error({ err: error }, `${running ? "the configuration stays as it was: " : ""}${(error as Error).message}`);
        if (!begun) process.exitCode = 1;
        return running;
      }
      try {
        await running?.close();
        const started = await start(configuration);
        begun = true;
        if (started.isDone) stop();
        return started;
      } catch (error) {
        log.error({ err: error }, `failed to start: ${(error as Error).message}`);
        if (begun) setTimeout(restart, RETRY_MS);
        else process.exitCode = 1;
        return undefined;
      }
    });
  };
  const stop = (): void => {
    void turn
      .then((running) => running?.close())
      .catch((error: unknown) => {
        log.error({ err: error }, `failed to stop: ${(error as Error).message}`);
        process.exitCode = 1;
      })
      .then(() => process.exit());
  };
  restart();
  // Watches and timers keep no process alive; what waits for signals does, unless there is nothing to run.
  const alive = setInterval(() => {}, 2 ** 30);
  void turn.then((running) => {
    if (!running) clearInterval(alive);
  });
  process.on("SIGHUP", restart).on("SIGTERM", stop).on("SIGINT", stop).on("SIGQUIT", stop);
}
