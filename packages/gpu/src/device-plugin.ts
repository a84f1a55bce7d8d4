/** The `berth-device-plugin` command. */
import { pino } from "pino";
import { type Chosen, choose, type CommandOptions, parseCommand } from "./plugin/command.ts";
import { NvidiaPlugin } from "./plugin/nvidia/plugin.ts";
import { xidRules } from "./plugin/nvidia/xids.ts";
import { DevicePlugin } from "./plugin/plugin.ts";

const options = parseCommand(process.argv.slice(2));
const log = pino({ level: options.logLevel, timestamp: pino.stdTimeFunctions.isoTime, base: null });
const RETRY_MS = 30_000;

interface Running {
  close(): Promise<void>;
}

async function start(chosen: Chosen, { cdiSpecDirs, kubeletSocket }: CommandOptions): Promise<Running> {
  if (chosen.kind === "cdi")
    return await DevicePlugin.start({ config: chosen.config, cdiSpecDirs, kubeletSocket, log });
  const { DP_DISABLE_HEALTHCHECKS: disabled, DP_ENABLE_HEALTHCHECKS: enabled } = process.env;
  const rules = xidRules(disabled, enabled, (text) => log.warn(text));
  const cdiDir = cdiSpecDirs.at(-1) ?? "/var/run/cdi";
  return await NvidiaPlugin.start({ settings: chosen.settings, rules, kubeletSocket, cdiDir, log });
}

// One thing at a time: a SIGHUP during a start waits for it.
let turn: Promise<Running | undefined> = Promise.resolve(undefined);
let begun = false;

function restart(): void {
  turn = turn.then(async (running) => {
    let next: Chosen;
    try {
      next = choose(options);
    } catch (error) {
      log.error({ err: error }, `${running ? "the configuration stays as it was: " : ""}${(error as Error).message}`);
      if (!running) process.exitCode = 1;
      return running;
    }
    await running?.close();
    try {
      const started = await start(next, options);
      begun = true;
      return started;
    } catch (error) {
      log.error({ err: error }, `failed to start: ${(error as Error).message}`);
      if (begun) setTimeout(restart, RETRY_MS);
      else process.exitCode = 1;
      return undefined;
    }
  });
}

function stop(): void {
  turn = turn.then(async (running) => {
    await running?.close();
    return undefined;
  });
  void turn.then(() => process.exit());
}

restart();
// Watches and timers keep no process alive; what waits for signals does, unless there is nothing to run.
const alive = setInterval(() => {}, 2 ** 30);
void turn.then((running) => {
  if (!running) clearInterval(alive);
});
process.on("SIGHUP", restart).on("SIGTERM", stop).on("SIGINT", stop);
