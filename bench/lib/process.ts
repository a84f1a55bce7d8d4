/** Child processes of a bench: started, waited for, and ended with it. */
import { type ChildProcess, spawn } from "node:child_process";
import { closeSync, existsSync, openSync, readFileSync, watch } from "node:fs";
import { dirname } from "node:path";

/** Runs to the end; a non-zero status is an error that shows what the program said. */
export function run(
  argv: readonly string[],
  options: { readonly input?: string; readonly env?: NodeJS.ProcessEnv } = {},
): Promise<string> {
  const [program = "", ...args] = argv;
  const stdin = options.input === undefined ? "ignore" : "pipe";
  const child = spawn(program, args, { stdio: [stdin, "pipe", "pipe"], env: options.env ?? process.env });
  const output: string[] = [];
  child.stdout?.on("data", (chunk: Buffer) => output.push(chunk.toString()));
  child.stderr?.on("data", (chunk: Buffer) => output.push(chunk.toString()));
  child.stdin?.end(options.input);
  const { promise, resolve, reject } = Promise.withResolvers<string>();
  child.on("error", reject);
  child.on("close", (status) =>
    status === 0
      ? resolve(output.join(""))
      : reject(new Error(`${argv.join(" ")} ended with ${status}:\n${output.join("")}`)),
  );
  return promise;
}

export interface Service {
  readonly pid: number;
  /** With SIGTERM, unless told otherwise; resolves when it is gone. */
  stop(signal?: NodeJS.Signals): Promise<void>;
}

/** Starts a server and waits for its socket to appear; its log is shown if it ends before that. */
export async function startService(argv: readonly string[], socket: string, logFile: string): Promise<Service> {
  const { service, failed } = begin(argv, logFile);
  await Promise.race([appears(socket), failed]);
  return service;
}

/** As startService, for what has no socket to wait for. */
export function startProcess(argv: readonly string[], logFile: string, env = process.env): Service {
  const { service, failed } = begin(argv, logFile, env);
  failed.catch(() => undefined);
  return service;
}

function begin(
  argv: readonly string[],
  logFile: string,
  env = process.env,
): { service: Service; failed: Promise<never> } {
  const [program = "", ...args] = argv;
  const log = openSync(logFile, "a");
  const child = spawn(program, args, { stdio: ["ignore", log, log], detached: true, env });
  closeSync(log);
  const failed = ended(child).then(() =>
    Promise.reject(new Error(`${program} ended at once:\n${readFileSync(logFile, "utf8")}`)),
  );
  if (child.pid === undefined) throw new Error(`${program} has no pid`);
  const stop = async (signal: NodeJS.Signals = "SIGTERM"): Promise<void> => {
    const gone = ended(child);
    child.kill(signal);
    await gone;
  };
  failed.catch(() => undefined);
  return { service: { pid: child.pid, stop }, failed };
}

function ended(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return Promise.resolve();
  const { promise, resolve } = Promise.withResolvers<void>();
  child.once("exit", () => resolve());
  return promise;
}

export function appears(path: string): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  const watcher = watch(dirname(path), () => check());
  const check = (): void => {
    if (!existsSync(path)) return;
    watcher.close();
    resolve();
  };
  check();
  return promise;
}
