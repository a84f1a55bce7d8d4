/** berthd: the daemon the kubelet talks to. */
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { pino } from "pino";
import { assemble } from "./assemble.ts";
import { parseOptions } from "./options.ts";

const checkout = fileURLToPath(new URL("../../..", import.meta.url)).replace(/\/$/, "");
const { version } = JSON.parse(readFileSync(`${checkout}/package.json`, "utf8")) as { version: string };
const options = parseOptions(process.argv.slice(2), { version, bosun: `${checkout}/.build/native/bosun` });
const log = pino({ level: options.logLevel, timestamp: pino.stdTimeFunctions.isoTime, base: null });

try {
  const daemon = await assemble({ options, version, log });
  for (const line of daemon.recovered) log.info({}, line);
  for (const warning of daemon.context.host.warnings) log.warn({}, warning);
  log.info({ address: options.address, root: options.root, state: options.state, pid: process.pid }, "berthd is ready");
  let stopping = false;
  const stop = (signal: NodeJS.Signals): void => {
    if (stopping) return;
    stopping = true;
    log.info({ signal }, "berthd stops; containers run on");
    daemon.close().then(
      () => log.info({}, "berthd has stopped"),
      (error: unknown) => {
        log.error({ err: error }, "berthd did not stop cleanly");
        process.exitCode = 1;
      },
    );
  };
  process.on("SIGTERM", stop).on("SIGINT", stop);
} catch (error) {
  log.fatal({ err: error }, error instanceof Error ? error.message : String(error));
  process.exitCode = 1;
}
