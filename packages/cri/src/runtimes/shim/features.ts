/** What the runtime behind a shim can do: its program's `-info` says it (containerd 2.0); of one that has none, nothing is assumed. */
import { stat } from "node:fs/promises";
import { fromBinary, toBinary } from "@bufbuild/protobuf";
import { AnySchema } from "@bufbuild/protobuf/wkt";
import { OrderError } from "@berth/kernel";
import { unpackJson } from "@berth/shim";
import { introspection } from "@berth/spec/shim";
import type { CriContext } from "../../context.ts";
import { CriError } from "../../errors.ts";
import type { RuntimeHandler } from "../../handlers.ts";
import type { HandlerFeatures } from "../kind.ts";
import { type RuntimeFeatures, supported } from "../oci.ts";
import { runtimeEnvironment } from "../oci-command.ts";
import { findShim, shimOptions } from "./start.ts";

const NONE: HandlerFeatures = { recursiveReadOnlyMounts: false, userNamespaces: false };
const TIMEOUT_MS = 10_000;

/** By the program's path, the time it was changed and the handler's name: an upgrade is seen. */
const known = new Map<string, Promise<HandlerFeatures>>();

export async function shimFeatures(context: CriContext, handler: RuntimeHandler): Promise<HandlerFeatures> {
  try {
    const path = await findShim(handler);
    const key = [path, (await stat(path)).mtimeMs, handler.name].join("\0");
    const found = known.get(key) ?? ask(context, path, handler);
    known.set(key, found);
    return await found;
  } catch (error) {
    // Not installed, or gone while it was looked at: there is nothing that it can do.
    if (error instanceof CriError || (error as NodeJS.ErrnoException).code === "ENOENT") return NONE;
    throw error;
  }
}

async function ask(context: CriContext, path: string, handler: RuntimeHandler): Promise<HandlerFeatures> {
  const options = shimOptions(handler);
  const stdin = options ? toBinary(AnySchema, options) : new Uint8Array();
  try {
    const command = { argv: [path, "-info"], env: runtimeEnvironment(), stdin };
    const { status, stdout } = await context.hand.spawn(command, { timeoutMs: TIMEOUT_MS });
    if (status !== 0) return NONE;
    const { features } = fromBinary(introspection.RuntimeInfoSchema, stdout);
    return features ? supported(context, unpackJson<RuntimeFeatures>(features)) : NONE;
  } catch (error) {
    // What it wrote is something else.
    if (error instanceof OrderError || error instanceof SyntaxError || error instanceof RangeError) return NONE;
    throw error;
  }
}
