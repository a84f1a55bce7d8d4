/** Containers of handlers with a BinaryName: an OCI runtime's command line, carried out under the container's monitor. */
import { stat } from "node:fs/promises";
import { OrderError } from "@berth/kernel";
import { placesIn } from "../checkpoint/place.ts";
import type { CriContext } from "../context.ts";
import { CriError, precondition } from "../errors.ts";
import { isRunc, type RuntimeHandler } from "../handlers.ts";
import { resourcesOf } from "../container/resources.ts";
import { supportsUserns } from "../sandbox/userns.ts";
import { hostCgroup, releaseCgroup } from "./host-cgroup.ts";
import type { HandlerFeatures, RuntimeKind } from "./kind.ts";
import {
  binaryOf,
  deleteByBinary,
  inRuntimesWords,
  planByBinary,
  planExecByBinary,
  runtimeEnvironment,
  runtimeLog,
  updateByBinary,
  withinHost,
} from "./oci-command.ts";
import { ownPods } from "./own-pods.ts";

export const oci: RuntimeKind = {
  ...ownPods,
  ...hostCgroup,
  name: "oci",
  serves: (handler) => isRunc(handler) && handler.options.binary !== undefined,
  check: async (context, handler) => void (await binaryOf(context, handler)),
  features,
  recordOf: async (context, handler, { record }) => ({
    binary: await binaryOf(context, handler, record.systemdCgroup === true),
  }),
  adapt: (context, spec, userns) => withinHost(spec, context.host, userns),
  // Part of its own start and delete.
  leavesHooks: false,
  plan: (context, { container: { record }, handler, spec, rootfs, userns, checkpoint }) =>
    planByBinary(
      context,
      { record, binary: record.binary ?? missing(record.id), handler, spec, rootfs, userns },
      checkpoint && placesIn(checkpoint.directory),
    ),
  subreaper: true,
  told: (context, record, work) => inRuntimesWords(runtimeLog(context, record), work),
  made: () => Promise.resolve(),
  release: (context, record) => releaseCgroup(context, record, () => deleteByBinary(context, record)),
  exec: async (context, { record }, _spec, process) => {
    const call = await planExecByBinary(context, record, record.binary ?? missing(record.id), process);
    return { ...call, told: (work) => inRuntimesWords(call.log, work) };
  },
  update: async (context, container, linux, merged, signal) => {
    // Where in its scope such a runtime has put the container is its own affair.
    if (container.record.binary?.systemdCgroup !== true)
      return await hostCgroup.update(context, container, linux, merged, signal);
    await updateByBinary(context, container.record, resourcesOf(context, linux), signal);
  },
  dump: async (...dumped) => (await import("../checkpoint/dump.ts")).dumpByBinary(...dumped),
  programOf: ({ binary }) => binary?.path ?? "",
  explain: (_context, { record }) => {
    throw precondition(`container "${record.id}" was made by ${record.binary?.path}; how, only that program could say`);
  },
};

function missing(id: string): never {
  throw new Error(`container ${id} has no runtime of its own`);
}

const NONE: HandlerFeatures = { recursiveReadOnlyMounts: false, userNamespaces: false };
const TIMEOUT_MS = 10_000;

/** What a runtime says that it can do (runtime-spec, features.md), as far as it is looked at. */
export interface RuntimeFeatures {
  readonly mountOptions?: readonly string[];
  readonly linux?: {
    readonly namespaces?: readonly string[];
    readonly mountExtensions?: { readonly idmap?: { readonly enabled?: boolean } };
  };
}

/** By the binary's path and the time it was changed: an upgrade is seen. */
const known = new Map<string, Promise<HandlerFeatures>>();

async function features(context: CriContext, handler: RuntimeHandler): Promise<HandlerFeatures> {
  try {
    const { path } = await binaryOf(context, handler);
    const key = `${path}\0${(await stat(path)).mtimeMs}`;
    const found = known.get(key) ?? ask(context, path);
    known.set(key, found);
    return await found;
  } catch (error) {
    // Not installed, or gone while it was looked at: there is nothing that it can do.
    if (error instanceof CriError || (error as NodeJS.ErrnoException).code === "ENOENT") return NONE;
    throw error;
  }
}

/** A runtime without the command (crun before 1.8.6) says of nothing that it can do it. */
async function ask(context: CriContext, path: string): Promise<HandlerFeatures> {
  try {
    const command = { argv: [path, "features"], env: runtimeEnvironment() };
    const { status, stdout } = await context.hand.spawn(command, { timeoutMs: TIMEOUT_MS });
    if (status !== 0) return NONE;
    return supported(context, JSON.parse(Buffer.from(stdout).toString()) as RuntimeFeatures);
  } catch (error) {
    if (error instanceof OrderError || error instanceof SyntaxError) return NONE;
    throw error;
  }
}

/** Of what a runtime can do, what this node has too. The root file system is mapped by berth, volumes by the runtime. */
export function supported(context: CriContext, { mountOptions, linux }: RuntimeFeatures): HandlerFeatures {
  const user = linux?.namespaces?.includes("user") === true && linux.mountExtensions?.idmap?.enabled === true;
  return {
    recursiveReadOnlyMounts: mountOptions?.includes("rro") === true && context.host.features.mountSetattr,
    userNamespaces: user && supportsUserns(context),
  };
}
