/** A plugin of the node's own directory: a program that finds its connection at descriptor 3. */
import { spawn } from "node:child_process";
import type { Socket } from "node:net";
import { createInterface } from "node:readline";
import type { Installed } from "./door.ts";
import type { PluginLog } from "./log.ts";

export interface Launched extends AsyncDisposable {
  readonly connection: Socket;
}

/** Its environment is what NRI says and nothing else. Rejects with spawn's error. */
export async function launch({ path, index, base }: Installed, log: PluginLog): Promise<Launched> {
  const name = `${index}-${base}`;
  const env = { NRI_PLUGIN_NAME: base, NRI_PLUGIN_IDX: index, NRI_PLUGIN_SOCKET: "3" };
  // The fourth is a socket pair, as every pipe of libuv's is.
  const child = spawn(path, [], { stdio: ["ignore", "pipe", "pipe", "pipe"], env, cwd: "/" });
  const exited = Promise.withResolvers<void>();
  child.once("exit", (code, signal) => {
    log.info({ plugin: name }, `the plugin's process has ended (${signal ?? `status ${code}`})`);
    exited.resolve();
  });
  const started = Promise.withResolvers<void>();
  child.once("spawn", () => started.resolve());
  child.once("error", (error) => started.reject(error));
  await started.promise;
  for (const output of [child.stdout, child.stderr])
    if (output) createInterface({ input: output }).on("line", (line) => log.info({ plugin: name }, line));
  return {
    connection: child.stdio[3] as Socket,
    [Symbol.asyncDispose]: async () => {
      child.kill("SIGKILL");
      await exited.promise;
    },
  };
}
