/** The `berth-device-plugin` command. */
import { pino } from "pino";
import { choose, parseCommand } from "./plugin/command.ts";
import { startPlugin } from "./plugin/start.ts";
import { restarting } from "./restarting.ts";

const options = parseCommand(process.argv.slice(2));
const log = pino({ level: options.logLevel, timestamp: pino.stdTimeFunctions.isoTime, base: null });
restarting(
  () => choose(options),
  (chosen) => startPlugin(chosen, options, log),
  log,
);
