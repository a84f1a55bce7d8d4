/** The `berth-device-plugin` command. */
import { readFileSync } from "node:fs";
import { Command, Option } from "commander";
import { pino } from "pino";
import { parseConfig } from "./plugin/config.ts";
import { DevicePlugin, type PluginOptions } from "./plugin/plugin.ts";

interface Flags {
  readonly configFile: string;
  readonly cdiSpecDirs: readonly string[];
  readonly kubeletSocket: string;
  readonly logLevel: string;
}

const LEVELS = ["debug", "info", "warn", "error"];
const split = (text: string): string[] => text.split(",");
const { configFile, cdiSpecDirs, kubeletSocket, logLevel } = new Command("berth-device-plugin")
  .description("Makes devices of any CDI kind a resource of this Kubernetes node, as its configuration file says.")
  .addOption(new Option("--config-file <file>", "the resources, as YAML").env("CONFIG_FILE").makeOptionMandatory())
  .addOption(
    new Option("--cdi-spec-dirs <dirs>", "where CDI specifications are, comma-separated")
      .env("CDI_SPEC_DIRS")
      .argParser(split)
      .default(["/etc/cdi", "/var/run/cdi"], "/etc/cdi,/var/run/cdi"),
  )
  .addOption(
    new Option("--kubelet-socket <file>", "the kubelet's registration socket; the plugin's own are made beside it")
      .env("KUBELET_SOCKET")
      .default("/var/lib/kubelet/device-plugins/kubelet.sock"),
  )
  .addOption(new Option("--log-level <level>", "how much is logged").choices(LEVELS).default("info").env("LOG_LEVEL"))
  .allowExcessArguments(false)
  .parse()
  .opts<Flags>();
const log = pino({ level: logLevel, timestamp: pino.stdTimeFunctions.isoTime, base: null });

const options = (): PluginOptions => ({
  config: parseConfig(readFileSync(configFile, "utf8"), configFile),
  cdiSpecDirs,
  kubeletSocket,
  log,
});
// One thing at a time: a SIGHUP during a start waits for it.
let turn: Promise<DevicePlugin | undefined> = Promise.resolve(undefined);

function restart(): void {
  turn = turn.then(async (running) => {
    let next: PluginOptions;
    try {
      next = options();
    } catch (error) {
      log.error({ err: error }, `${running ? "the configuration stays as it was: " : ""}${(error as Error).message}`);
      if (!running) process.exitCode = 1;
      return running;
    }
    await running?.close();
    return await DevicePlugin.start(next);
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
