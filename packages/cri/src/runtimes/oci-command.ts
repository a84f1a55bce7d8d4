/** Containers of handlers with a BinaryName: what their OCI runtime is told, and what it says when it fails. */
import { randomBytes } from "node:crypto";
import { mkdir, readFile, rm, writeFile } from "node:fs/promises";
import { delimiter, join } from "node:path";
import { capabilitiesOfMask, type HostFacts, OrderError, type Plan } from "@berth/kernel";
import {
  type BinaryCall,
  planBinaryContainer,
  planBinaryExec,
  planBinaryRestore,
  type Rootfs,
  runtimeCommand,
  type RuntimeBinary,
} from "@berth/runtime";
import { oci } from "@berth/spec/oci";
import { type CriContext, sandboxDir } from "../context.ts";
import { precondition } from "../errors.ts";
import type { RuntimeHandler } from "../handlers.ts";
import { exists, isExecutable } from "../presence.ts";
import type { UsernsMaps } from "../sandbox/userns.ts";
import type { ContainerRecord } from "../store/records.ts";

/** Where administrators' programs are, beyond an ordinary PATH. */
const SYSTEM_DIRS = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];
/** What runc 1.1 and crun 1.8 know; later editions only add to it. */
const OCI_VERSION = "1.0.2";
const DELETE_TIMEOUT_MS = 30_000;

/** The handler's runtime. FailedPrecondition: there is no such program. */
export async function binaryOf(
  context: CriContext,
  handler: RuntimeHandler,
  systemdCgroup = handler.options.systemdCgroup,
): Promise<RuntimeBinary> {
  if (handler.options.binary === undefined)
    throw precondition(`runtime_handler: "${handler.name}" names no BinaryName any more`);
  return {
    path: await findBinary(handler.name, handler.options.binary),
    root: handler.options.root ?? `${context.paths.state}/runtimes/${handler.name}`,
    ...(systemdCgroup && { systemdCgroup }),
  };
}

async function findBinary(handler: string, name: string): Promise<string> {
  const path = (process.env["PATH"] ?? "").split(delimiter).filter((dir) => dir.startsWith("/"));
  const candidates = name.includes("/") ? [name] : [...path, ...SYSTEM_DIRS].map((dir) => join(dir, name));
  for (const candidate of candidates) if (await isExecutable(candidate)) return candidate;
  throw precondition(
    `runtime_handler: "${handler}" names the binary ${name}, which is ${name.includes("/") ? "no executable file" : "not on PATH"}; install it, or name its path as BinaryName`,
  );
}

/** Below the pod's directory: a mount of its own, so that what is mounted in a bundle reaches nobody. */
const bundleOf = (context: CriContext, { sandboxId, id }: ContainerRecord): string =>
  `${sandboxDir(context, sandboxId)}/bundles/${id}`;
/** A socket's path has at most 107 bytes. */
const consoleSocketOf = (context: CriContext, terminal: boolean): string | undefined =>
  terminal ? `${context.paths.state}/tty-${randomBytes(6).toString("hex")}` : undefined;

/** berthd's own, with a PATH on which a runtime finds what it calls itself. */
export function runtimeEnvironment(): Record<string, string> {
  const env = Object.entries(process.env).filter((entry): entry is [string, string] => entry[1] !== undefined);
  const path = [process.env["PATH"], ...SYSTEM_DIRS].filter(Boolean).join(delimiter);
  return { ...Object.fromEntries(env), PATH: path };
}

const callOf = (record: ContainerRecord, binary: RuntimeBinary, log: string): BinaryCall => ({
  binary,
  id: record.id,
  log,
  env: runtimeEnvironment(),
});

/** The beginning of a command of the container's runtime, with a log of its own. */
export function callOfContainer(record: ContainerRecord, log: string): BinaryCall {
  if (!record.binary) throw new Error(`container ${record.id} has no runtime of its own`);
  return callOf(record, record.binary, log);
}

export interface BinaryInput {
  readonly record: ContainerRecord;
  readonly binary: RuntimeBinary;
  readonly handler: RuntimeHandler;
  readonly spec: oci.Spec;
  readonly rootfs: Rootfs;
  /** The path of the pod's user namespace. */
  readonly userns: string | undefined;
}

/** Writes the bundle; the plan makes the container of it, or has it restored from where `checkpoint` says. */
export async function planByBinary(
  context: CriContext,
  input: BinaryInput,
  checkpoint?: { readonly images: string; readonly work: string },
): Promise<Plan> {
  const { record, binary, handler, spec, rootfs, userns } = input;
  const bundle = bundleOf(context, record);
  await mkdir(`${bundle}/rootfs`, { recursive: true, mode: 0o711 });
  await mkdir(binary.root, { recursive: true, mode: 0o711 });
  await writeFile(`${bundle}/config.json`, oci.compactSpec(spec));
  const call = {
    ...callOf(record, binary, `${bundle}/log.json`),
    bundle,
    rootfs,
    userns,
    host: context.host,
    pidFile: `${bundle}/pid`,
    consoleSocket: consoleSocketOf(context, record.config.tty),
  };
  if (checkpoint) return planBinaryRestore({ ...call, ...checkpoint });
  const { noPivotRoot, noNewKeyring } = handler.options;
  return planBinaryContainer({ ...call, noPivotRoot, noNewKeyring });
}

/** What the machine does not let any runtime give: runc and crun fail where berth's own leaves it out with a warning. */
export function withinHost(spec: oci.Spec, host: HostFacts, userns: UsernsMaps | undefined): oci.Spec {
  const held = new Set(capabilitiesOfMask(host.capabilities.effective));
  const kept = (names: readonly string[] | undefined): string[] => (names ?? []).filter((name) => held.has(name));
  const { capabilities, oomScoreAdj } = spec.process ?? {};
  const lowest = held.has("CAP_SYS_RESOURCE") ? -1000 : host.oomScoreAdj;
  return {
    ...spec,
    ociVersion: OCI_VERSION,
    // They join the namespace by its path, and want to be told its maps all the same.
    ...(userns && { linux: { ...spec.linux, uidMappings: userns.uids, gidMappings: userns.gids } }),
    ...(spec.process && {
      process: {
        ...spec.process,
        ...(capabilities && {
          capabilities: Object.fromEntries(Object.entries(capabilities).map(([set, names]) => [set, kept(names)])),
        }),
        ...(oomScoreAdj !== undefined && { oomScoreAdj: Math.max(oomScoreAdj, lowest) }),
      },
    }),
  };
}

/** A further process by `exec`; its files go when it has been started. */
export async function planExecByBinary(
  context: CriContext,
  record: ContainerRecord,
  binary: RuntimeBinary,
  process: oci.Process,
): Promise<{ readonly plan: Plan; readonly log: string } & AsyncDisposable> {
  const base = `${bundleOf(context, record)}/exec-${randomBytes(6).toString("hex")}`;
  const [file, pidFile, log] = [`${base}.json`, `${base}.pid`, `${base}.log`];
  await writeFile(file, JSON.stringify(process));
  const consoleSocket = consoleSocketOf(context, process.terminal === true);
  return {
    plan: planBinaryExec({ ...callOf(record, binary, log), process: file, pidFile, consoleSocket }),
    log,
    [Symbol.asyncDispose]: async () => {
      for (const path of [file, pidFile, log]) await rm(path, { force: true });
    },
  };
}

/** FailedPrecondition, in the runtime's words. */
export async function updateByBinary(
  context: CriContext,
  record: ContainerRecord,
  resources: oci.LinuxResources,
  signal: AbortSignal,
): Promise<void> {
  if (!record.binary) return;
  const log = `${bundleOf(context, record)}/update-${randomBytes(6).toString("hex")}.log`;
  const call = callOf(record, record.binary, log);
  const argv = runtimeCommand(call, "update", "--resources", "-", record.id);
  try {
    const stdin = Buffer.from(JSON.stringify(resources));
    const { status, stderr } = await context.hand.spawn({ argv, env: call.env, stdin }, { signal });
    if (status === 0) return;
    const said = (await lastError(log)) ?? Buffer.from(stderr).toString().trim();
    throw precondition(`linux: the runtime ${record.binary.path} could not update container "${record.id}": ${said}`);
  } finally {
    await rm(log, { force: true });
  }
}

/** Idempotent: also after a create that failed, and for a container that the runtime does not know. */
export async function deleteByBinary(context: CriContext, record: ContainerRecord): Promise<void> {
  if (!record.binary) return;
  const bundle = bundleOf(context, record);
  if (!(await exists(bundle))) return;
  const call = callOf(record, record.binary, `${bundle}/delete.json`);
  const argv = runtimeCommand(call, "delete", "--force", record.id);
  try {
    const { status, stderr } = await context.hand.spawn({ argv, env: call.env }, { timeoutMs: DELETE_TIMEOUT_MS });
    if (status !== 0) {
      const said = Buffer.from(stderr).toString().trim();
      context.log.warn(
        { container: record.id, binary: record.binary.path },
        `its runtime could not delete it: ${said}`,
      );
    }
  } catch (error) {
    // The program may have been removed; its container's processes and cgroups are ended by other means.
    if (!(error instanceof OrderError)) throw error;
    context.log.warn({ container: record.id, err: error }, "its runtime could not be asked to delete it");
  }
  await rm(bundle, { recursive: true, force: true });
}

/** `work`, whose failure is told as the runtime's `log` tells it, where it does. */
export async function inRuntimesWords<T>(log: string, work: Promise<T>): Promise<T> {
  try {
    return await work;
  } catch (error) {
    throw error instanceof OrderError && error.orderName === "runtime" ? await explained(log, error) : error;
  }
}

async function explained(log: string, error: OrderError): Promise<OrderError> {
  const said = await lastError(log);
  if (said === undefined) return error;
  return Object.assign(new OrderError(`OCI runtime: ${said}`, error), { cause: error });
}

/** The runtime's log of a container's own process. */
export const runtimeLog = (context: CriContext, record: ContainerRecord): string =>
  `${bundleOf(context, record)}/log.json`;

/** runc and crun write a line of JSON each, with level and msg. */
async function lastError(log: string): Promise<string | undefined> {
  let text: string;
  try {
    text = await readFile(log, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
  let last: string | undefined;
  for (const line of text.split("\n")) {
    const { level, msg } = parseLine(line);
    if (typeof msg === "string" && (level === "error" || level === "fatal")) last = msg;
  }
  return last;
}

function parseLine(line: string): { level?: unknown; msg?: unknown } {
  try {
    return (JSON.parse(line) ?? {}) as { level?: unknown; msg?: unknown };
  } catch (error) {
    if (error instanceof SyntaxError) return {};
    throw error;
  }
}
