/** berth-vm monitor: kata-monitor. */
import type { Command } from "commander";
import type { Context } from "./context.ts";
import { sandboxDirectories } from "./sandboxes.ts";

interface Options {
  readonly listenAddress: string;
  readonly runtimeEndpoint?: string;
  readonly logLevel: string;
}

/** logrus' words, from the least to the most urgent. */
const LEVELS = ["trace", "debug", "info", "warn", "error", "fatal", "panic"];

export function addMonitor(command: Command, context: Context): void {
  command
    .command("monitor")
    .description("serve the metrics of all machines of this node over HTTP")
    .option("--listen-address <address>", "the address to listen on for HTTP requests", "127.0.0.1:8090")
    .option("--runtime-endpoint <socket>", "of the CRI runtime, which knows pods' names; default: berthd's")
    .option("--log-level <level>", `${LEVELS.join("/")}; another counts as warn`, "info")
    .action(async (options: Options) => await monitor(context, options));
}

async function monitor(context: Context, { listenAddress, runtimeEndpoint, logLevel }: Options): Promise<void> {
  const [{ Aggregator }, { Pods }, { serveMonitor }] = await Promise.all([
    import("../monitor/aggregate.ts"),
    import("../monitor/pods.ts"),
    import("../monitor/server.ts"),
  ]);
  const least = LEVELS.indexOf(LEVELS.includes(logLevel) ? logLevel : "warn");
  const log = (level: "debug" | "info" | "warn" | "error", message: string): void => {
    if (LEVELS.indexOf(level) < least) return;
    const time = new Date().toISOString();
    context.io.stderr.write(
      `time="${time}" level=${level === "warn" ? "warning" : level} msg=${JSON.stringify(message)} name=kata-monitor pid=${process.pid}\n`,
    );
  };
  const directories = sandboxDirectories(context);
  using pods = await Pods.at(runtimeEndpoint ?? `${context.options.state}/berth.sock`);
  const aggregator = new Aggregator({ directories, names: () => pods.names(), log });
  await using server = await serveMonitor({ aggregator, directories, address: listenAddress, log });
  log("info", `listening on ${listenAddress.replace(/:0$/, `:${server.port}`)}`);
  await context.stopped();
}
