/** The `berth-mps-control-daemon` command. */
import { pino } from "pino";
import { Driver } from "./generate/driver.ts";
import { parseMpsCommand } from "./mps/command.ts";
import { MpsService } from "./mps/service.ts";
import { mountSharedMemory } from "./mps/shm.ts";
import { NVML_NAME } from "./nvml/name.ts";
import type { NvidiaSettings } from "./plugin/nvidia/settings.ts";
import { restarting } from "./restarting.ts";

const command = parseMpsCommand(process.argv.slice(2));
const log = pino({ level: command.logLevel, timestamp: pino.stdTimeFunctions.isoTime, base: null });

async function start(settings: NvidiaSettings): Promise<MpsService> {
  const library = Driver.findNvml(settings.flags.containerDriverRoot) ?? NVML_NAME;
  return await MpsService.start({ settings, library, log });
}

if (command.verb === "run") restarting(() => command.readSettings((text) => log.warn(text)), start, log);
else
  try {
    await mountSharedMemory(command.mpsRoot);
  } catch (error) {
    log.error({ err: error }, (error as Error).message);
    process.exitCode = 1;
  }
