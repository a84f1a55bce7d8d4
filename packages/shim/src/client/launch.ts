/** How a shim's binary is found, started and asked to clean up, as containerd does it (runtime/v2/README.md of containerd). */
import type { Command } from "@berth/kernel";
import { bootstrap, task } from "@berth/spec/shim";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { type Any, AnySchema } from "@bufbuild/protobuf/wkt";

/** The highest version of the Task API that is spoken. */
const NEWEST_API = 3;
/** A program that fails. */
const NO_PUBLISHER = "/bin/false";
/** "io.containerd.runc.v2" → "containerd-shim-runc-v2"; a path stands for itself. Undefined: it is neither. */
export function shimBinary(type: string): string | undefined {
  if (type.startsWith("/")) return type;
  const parts = type.split(".");
  const [name, version] = parts.slice(-2);
  if (parts.length < 2 || parts[0] === "" || !name || !version) return undefined;
  return `containerd-shim-${name}-${version}`;
}

/** Where a shim serves the Task API. */
export interface Bootstrap {
  /** A unix socket's path, or "@name" of an abstract one. */
  readonly address: string;
  /** Of the Task API. */
  readonly version: 2 | 3;
}

/**
 * Of what `start` has written: an address, since version 3 JSON, or since containerd 2.3 a BootstrapResult. Throws where it is none of
 * them, or not ttRPC.
 */
export function parseBootstrap(output: Uint8Array): Bootstrap {
  if (output[0] === RESULTS_VERSION) return bootstrapOf(fromBinary(bootstrap.BootstrapResultSchema, output));
  const text = Buffer.from(output).toString().trim();
  if (!text.startsWith("{")) return { address: socketOf(text), version: 2 };
  const said = JSON.parse(text) as { version?: unknown; address?: unknown; protocol?: unknown };
  if (typeof said.address !== "string") throw new Error(`the shim told no address: ${text}`);
  const { version = 2, address, protocol = "ttrpc" } = said;
  return bootstrapOf({ version, address, protocol });
}

/** The first byte of a BootstrapResult: its first field's key. */
const RESULTS_VERSION = 8;

function bootstrapOf(said: {
  readonly version: unknown;
  readonly address: string;
  readonly protocol: unknown;
}): Bootstrap {
  const { version, address, protocol } = said;
  if (protocol !== "ttrpc")
    throw new Error(`the shim speaks ${JSON.stringify(protocol)}; berth speaks ttrpc with shims`);
  if (version !== 2 && version !== 3)
    throw new Error(`the shim serves version ${JSON.stringify(version)} of the Task API; berth knows 2 and 3`);
  return { address: socketOf(address), version };
}

function socketOf(address: string): string {
  const path = address.replace(/^(ttrpc\+)?unix:\/\//, "").replace("\0", "@");
  if (!path.startsWith("/") && !path.startsWith("@"))
    throw new Error(`the shim's address ${JSON.stringify(address)} is no unix socket's`);
  return path;
}

export interface ShimCall {
  /** Of the binary. */
  readonly path: string;
  readonly namespace: string;
  /** Of the container. */
  readonly id: string;
  readonly bundle: string;
  /** The socket that shims would know as containerd's; their events go to it with ".ttrpc" behind. */
  readonly address: string;
  readonly env: Readonly<Record<string, string>>;
}

/** The program starts a shim, or finds the one of the container's pod, and writes where it is. */
export function startCommand(call: ShimCall, options: Any | undefined): Command {
  return { ...started(call), ...(options && { stdin: toBinary(AnySchema, options) }) };
}

const started = (call: ShimCall): Command => commandOf(call, ["-id", call.id, "start"]);

/** The same for shims of containerd 2.3 and younger, which want all of it on their standard input. */
export function bootstrapCommand(call: ShimCall, options: Any | undefined): Command {
  const { id: instanceId, namespace, address } = call;
  const params = create(bootstrap.BootstrapParamsSchema, {
    instanceId,
    namespace,
    containerdGrpcAddress: address,
    containerdTtrpcAddress: `${address}.ttrpc`,
    containerdBinary: NO_PUBLISHER,
    extensions: options ? [{ value: options }] : [],
  });
  return { ...started(call), stdin: toBinary(bootstrap.BootstrapParamsSchema, params) };
}

/** Of a start that has failed: whether the shim is one of those. */
export const wantsBootstrap = (stderr: string): boolean =>
  /started through the deprecated API but was built against the new API/.test(stderr);

/** For a container whose shim is gone: the program removes what is left of it. */
export const deleteCommand = (call: ShimCall): Command =>
  commandOf(call, ["-id", call.id, "-bundle", call.bundle, "delete"]);

/** What `delete` has written. */
export const parseDeleted = (output: Uint8Array): task.DeleteResponse => fromBinary(task.DeleteResponseSchema, output);

function commandOf({ path, namespace, address, bundle, env }: ShimCall, rest: readonly string[]): Command {
  return {
    // Events go to TTRPC_ADDRESS; a shim of before containerd 1.3, which would run the publish binary, is told one that fails.
    argv: [path, "-namespace", namespace, "-address", address, "-publish-binary", NO_PUBLISHER, ...rest],
    cwd: bundle,
    env: {
      ...env,
      GOMAXPROCS: "2",
      MAX_SHIM_VERSION: String(NEWEST_API),
      TTRPC_ADDRESS: `${address}.ttrpc`,
      GRPC_ADDRESS: address,
      NAMESPACE: namespace,
    },
  };
}
