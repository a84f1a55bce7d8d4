/** Starting a shim, and removing what is left of a container whose shim has gone. */
import { delimiter, join } from "node:path";
import type { Command } from "@berth/kernel";
import {
  type Bootstrap,
  bootstrapCommand,
  deleteCommand,
  packMessage,
  parseBootstrap,
  shimBinary,
  startCommand,
  wantsBootstrap,
} from "@berth/shim";
import { runcOptions, runtimeOptions } from "@berth/spec/shim";
import type { CriContext } from "../../context.ts";
import { precondition } from "../../errors.ts";
import { isRuncShim, type RuntimeHandler } from "../../handlers.ts";
import { isExecutable } from "../../presence.ts";
import { runtimeEnvironment } from "../oci-command.ts";
import { callOf, lastLog, rememberShim } from "./bundle.ts";
import { shimsOf } from "./shims.ts";

/** ms. A shim that boots a machine does so for Create, not for its start. */
const START_TIMEOUT = 30_000;
const DELETE_TIMEOUT = 30_000;

/** FailedPrecondition: there is no such program. */
export async function findShim({ name, type, path }: RuntimeHandler): Promise<string> {
  const wanted = path ?? shimBinary(type);
  if (wanted === undefined)
    throw precondition(
      `runtime_handler: "${name}" has runtime_type "${type}", which is neither a path nor a name like io.containerd.NAME.v2`,
    );
  const dirs = (runtimeEnvironment()["PATH"] ?? "").split(delimiter).filter((dir) => dir.startsWith("/"));
  const candidates = wanted.includes("/") ? [wanted] : dirs.map((dir) => join(dir, wanted));
  for (const candidate of candidates) if (await isExecutable(candidate)) return candidate;
  const why = wanted.includes("/") ? "is no executable file" : "is not on PATH";
  throw precondition(`runtime_handler: "${name}" is served by the shim ${wanted}, which ${why}; install it`);
}

/** runc's shim has options of its own; all others are told what the configuration's table says, to read as they like. */
export function shimOptions(handler: RuntimeHandler) {
  const { binary = "", root = "", noPivotRoot, noNewKeyring, systemdCgroup, shim } = handler.options;
  if (isRuncShim(handler)) {
    const options = { binaryName: binary, root, noPivotRoot, noNewKeyring, systemdCgroup };
    return packMessage(runcOptions.OptionsSchema, options);
  }
  if (shim === undefined) return undefined;
  const { typeUrl, configPath, configBody } = shim;
  return packMessage(runtimeOptions.OptionsSchema, { typeUrl, configPath, configBody: Buffer.from(configBody) });
}

/** The shim of the container's pod, or a new one: its program knows. */
export async function startShim(
  context: CriContext,
  handler: RuntimeHandler,
  id: string,
  bundle: string,
): Promise<Bootstrap> {
  await shimsOf(context).listen();
  const path = await findShim(handler);
  const call = callOf(context, path, id, bundle);
  const options = shimOptions(handler);
  let { status, stdout, said } = await run(context, startCommand(call, options));
  if (status !== 0 && wantsBootstrap(said))
    ({ status, stdout, said } = await run(context, bootstrapCommand(call, options)));
  if (status !== 0) {
    said ||= await lastLog(bundle);
    throw precondition(`runtime_handler: "${handler.name}": the shim ${path} did not start: ${said}`);
  }
  const bootstrap = parseBootstrap(stdout);
  await rememberShim(bundle, { ...bootstrap, path });
  return bootstrap;
}

async function run(context: CriContext, command: Command) {
  const { status, stdout, stderr } = await context.hand.spawn(command, { timeoutMs: START_TIMEOUT });
  return { status, stdout, said: Buffer.from(stderr).toString().trim() };
}

/** As containerd does for a container whose shim has died. What it cannot remove is warned about. */
export async function deleteByProgram(context: CriContext, path: string, id: string, bundle: string): Promise<void> {
  const command = deleteCommand(callOf(context, path, id, bundle));
  const { status, stderr } = await context.hand.spawn(command, { timeoutMs: DELETE_TIMEOUT });
  if (status === 0) return;
  context.log.warn(
    { container: id, shim: path },
    `its shim's program could not remove what is left of it: ${Buffer.from(stderr).toString().trim()}`,
  );
}
