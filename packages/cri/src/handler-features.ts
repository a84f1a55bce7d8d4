/** What each runtime handler can do, as Status says it: asked of its kind, never assumed. */
import type { cri } from "@berth/spec";
import type { CriContext } from "./context.ts";
import { precondition } from "./errors.ts";
import type { RuntimeHandler } from "./handlers.ts";
import { kindFor, servedBy } from "./runtimes/find.ts";
import type { HandlerFeatures } from "./runtimes/kind.ts";

const NONE: HandlerFeatures = { recursiveReadOnlyMounts: false, userNamespaces: false };
/** For kinds that say of themselves what berth's own can: each request is looked at for that elsewhere. */
const OWN: HandlerFeatures = { recursiveReadOnlyMounts: true, userNamespaces: true };

/** FailedPrecondition for a pod with a user namespace whose handler's runtime does not say that it can. */
export async function checkUsernsHandler(context: CriContext, handler: RuntimeHandler): Promise<void> {
  const { userNamespaces } = await kindFor(context, handler).features(context, handler, OWN);
  if (userNamespaces) return;
  throw precondition(
    `linux.security_context.namespace_options.userns_options: the runtime of handler "${handler.name}" does not say that it can map the owners of mounts; see its features command, or its shim's -info`,
  );
}

/** What a container asks for that the handler's runtime would not give. */
export async function checkSupported(
  context: CriContext,
  handler: RuntimeHandler,
  config: cri.ContainerConfig,
): Promise<void> {
  const index = config.mounts.findIndex((mount) => mount.recursiveReadOnly);
  if (index < 0) return;
  const { recursiveReadOnlyMounts } = await kindFor(context, handler).features(context, handler, OWN);
  if (recursiveReadOnlyMounts) return;
  throw precondition(
    `config.mounts[${index}].recursive_read_only: the runtime of handler "${handler.name}" does not say that it can; see its features command, or its shim's -info`,
  );
}

/** `own`: those of containers that are made in process. */
export async function featuresOf(
  context: CriContext,
  handler: RuntimeHandler,
  own: HandlerFeatures,
): Promise<HandlerFeatures> {
  return (await servedBy(context, handler)?.features(context, handler, own)) ?? NONE;
}
