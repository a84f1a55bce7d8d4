/** The `berth-gpu-feature-discovery` command. Its log goes to the standard error: labels may go to the standard output. */
import { pino } from "pino";
import { parseLabelCommand } from "./labels/command.ts";
import { LabelService } from "./labels/service.ts";
import { restarting } from "./restarting.ts";

const command = parseLabelCommand(process.argv.slice(2));
const options = { level: command.logLevel, timestamp: pino.stdTimeFunctions.isoTime, base: null };
const log = pino(options, pino.destination({ fd: 2, sync: true }));
restarting(
  () => command.readSettings((text) => log.warn(text)),
  (settings) => LabelService.start({ settings, log, print: (text) => void process.stdout.write(text) }),
  log,
);
