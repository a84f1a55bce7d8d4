/** What each runtime handler can do, as Status says it: asked of an OCI runtime by its `features` command, never assumed. */
import { stat } from "node:fs/promises";
import { OrderError } from "@berth/kernel";
import type { cri } from "@berth/spec";
import { binaryOf, runtimeEnvironment } from "./container/binary.ts";
import type { CriContext } from "./context.ts";
import { CriError, precondition } from "./errors.ts";
import { kindOf, type RuntimeHandler } from "./handlers.ts";
import { supportsUserns } from "./sandbox/userns.ts";

export interface HandlerFeatures {
  readonly recursiveReadOnlyMounts: boolean;
  readonly userNamespaces: boolean;
}

const NONE: HandlerFeatures = { recursiveReadOnlyMounts: false, userNamespaces: false };
const TIMEOUT_MS = 10_000;

/** What `runc features` prints (runtime-spec, features.md), as far as it is looked at. */
interface Printed {
  readonly mountOptions?: readonly string[];
  readonly linux?: {
    readonly namespaces?: readonly string[];
    readonly mountExtensions?: { readonly idmap?: { readonly enabled?: boolean } };
  };
}

/** FailedPrecondition for a pod with a user namespace whose handler's binary does not say that it can. */
export async function checkUsernsHandler(context: CriContext, handler: RuntimeHandler): Promise<void> {
  if (kindOf(handler) !== "oci" || (await featuresOf(context, handler, NONE)).userNamespaces) return;
  throw precondition(
    `linux.security_context.namespace_options.userns_options: the binary of runtime handler "${handler.name}" does not say that it can map the owners of mounts; see its features command`,
  );
}

/** What a container asks for that the handler's binary would not give. */
export async function checkSupported(
  context: CriContext,
  handler: RuntimeHandler,
  config: cri.ContainerConfig,
): Promise<void> {
  const index = config.mounts.findIndex((mount) => mount.recursiveReadOnly);
  if (index < 0 || kindOf(handler) !== "oci") return;
  const { recursiveReadOnlyMounts } = await featuresOf(context, handler, NONE);
  if (!recursiveReadOnlyMounts) {
    throw precondition(
      `config.mounts[${index}].recursive_read_only: the binary of runtime handler "${handler.name}" does not say that it can; see its features command`,
    );
  }
}

/** By the binary's path and the time it was changed: an upgrade is seen. */
const known = new Map<string, Promise<HandlerFeatures>>();

/** `own`: those of containers that are made in process. */
export async function featuresOf(
  context: CriContext,
  handler: RuntimeHandler,
  own: HandlerFeatures,
): Promise<HandlerFeatures> {
  if (kindOf(handler) === "in-process") return own;
  if (kindOf(handler) === "shim") return NONE;
  try {
    const binary = await binaryOf(context, handler);
    if (!binary) return NONE;
    const key = `${binary.path}\0${(await stat(binary.path)).mtimeMs}`;
    const found = known.get(key) ?? ask(context, binary.path);
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
    const { mountOptions, linux } = JSON.parse(Buffer.from(stdout).toString()) as Printed;
    const rro = mountOptions?.includes("rro") === true;
    // The root file system is mapped by berth, volumes by the binary.
    const user = linux?.namespaces?.includes("user") === true && linux.mountExtensions?.idmap?.enabled === true;
    return {
      recursiveReadOnlyMounts: rro && context.host.features.mountSetattr,
      userNamespaces: user && supportsUserns(context),
    };
  } catch (error) {
    if (error instanceof OrderError || error instanceof SyntaxError) return NONE;
    throw error;
  }
}
