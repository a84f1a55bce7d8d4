/** A plugin as the command runs it: NVIDIA's or that of CDI kinds, with its metrics. */
import { type Chosen, type CommandOptions } from "./command.ts";
import { PluginMetrics } from "./metrics.ts";
import type { Log } from "./registrations.ts";

interface Running {
  close(): Promise<void>;
}

/** Rejects where it cannot start; then nothing of it is left. */
export async function startPlugin(chosen: Chosen, options: CommandOptions, log: Log): Promise<Running> {
  const { httpEndpoint, metricsPath } = options;
  const metrics = new PluginMetrics();
  await using stack = new AsyncDisposableStack();
  if (httpEndpoint) {
    const { serveMetrics } = await import("./metrics-server.ts");
    stack.use(await serveMetrics(metrics, httpEndpoint, metricsPath));
  }
  const plugin = await start(chosen, options, metrics, log);
  stack.defer(() => plugin.close());
  const all = stack.move();
  return { close: () => all.disposeAsync() };
}

/** Each kind's code is loaded when it is wanted. */
async function start(chosen: Chosen, options: CommandOptions, metrics: PluginMetrics, log: Log): Promise<Running> {
  const { cdiSpecDirs, kubeletSocket } = options;
  if (chosen.kind === "cdi") {
    const { DevicePlugin } = await import("./plugin.ts");
    return await DevicePlugin.start({ config: chosen.config, cdiSpecDirs, kubeletSocket, log, metrics });
  }
  for (const warning of chosen.warnings) log.warn({}, warning);
  const [{ NvidiaPlugin }, { xidRules }] = await Promise.all([
    import("./nvidia/plugin.ts"),
    import("./nvidia/xids.ts"),
  ]);
  const { DP_DISABLE_HEALTHCHECKS: disabled, DP_ENABLE_HEALTHCHECKS: enabled } = process.env;
  const rules = xidRules(disabled, enabled, (text) => log.warn({}, text));
  const cdiDir = cdiSpecDirs.at(-1) ?? "/var/run/cdi";
  return await NvidiaPlugin.start({ settings: chosen.settings, rules, kubeletSocket, cdiDir, log, metrics });
}
