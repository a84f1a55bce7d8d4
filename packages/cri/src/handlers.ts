/** Runtime handlers (RuntimeClass): which names a pod may ask for, and what serves each. */
import type { CriContext } from "./context.ts";
import { invalid } from "./errors.ts";

/** A runtime of the configuration, as containerd's containerd.runtimes.NAME has it. */
export interface RuntimeHandler {
  readonly name: string;
  /** As in "io.containerd.runc.v2". */
  readonly type: string;
  /** Of a shim's binary. */
  readonly path: string | undefined;
  /** Patterns of pods' annotations that are passed on to the OCI config; so the next for containers' own. */
  readonly podAnnotations: readonly string[];
  readonly containerAnnotations: readonly string[];
  readonly privilegedWithoutHostDevices: boolean;
  readonly privilegedAllDevicesAllowed: boolean;
  readonly cgroupWritable: boolean;
  /** A file with the OCI config that every container's is made from. */
  readonly baseSpec: string | undefined;
  readonly cniConfDir: string | undefined;
  readonly cniMaxConfNum: number | undefined;
  readonly sandboxer: "podsandbox" | "shim";
  readonly options: {
    /** Of an OCI runtime's command; undefined: served in process. */
    readonly binary: string | undefined;
    /** The runtime's --root. */
    readonly root: string | undefined;
    readonly noPivotRoot: boolean;
    readonly noNewKeyring: boolean;
    /** NVIDIA Container Toolkit's config.toml: containers get the GPUs that they ask for by it. Served in process only. */
    readonly nvidia: string | undefined;
    /** A configuration.toml: how the pod's virtual machine is. */
    readonly configPath?: string | undefined;
    /** Containers' cgroups are systemd's scopes. */
    readonly systemdCgroup: boolean;
    /** For shims that are not runc's, of runtimeoptions.v1.Options; undefined: they are told none. */
    readonly shim: { readonly typeUrl: string; readonly configPath: string; readonly configBody: string } | undefined;
  };
}

export interface HandlerTable {
  readonly handlers: ReadonlyMap<string, RuntimeHandler>;
  /** Serves pods that name none. */
  readonly defaultHandler: string;
}

/** What containerd's runc shim (and its predecessors) serve: the OCI command line. */
const RUNC_TYPES = new Set(["io.containerd.runc.v1", "io.containerd.runc.v2", "io.containerd.runtime.v1.linux"]);

/** Whether an OCI runtime's command line (or berth in its place) serves it, rather than a shim's. */
export const isRunc = ({ type, path }: RuntimeHandler): boolean => RUNC_TYPES.has(type) && path === undefined;

/** Whether the shim that serves it is runc's, by whatever name: it has options of its own. */
export const isRuncShim = ({ type, path }: RuntimeHandler): boolean =>
  RUNC_TYPES.has(type) || /(^|\/)containerd-shim-runc-v\d+$/.test(path ?? type);

/** The handler that a pod's request names; "" is the default. What serves it is found by its kind (runtimes/find.ts). */
export function handlerOf({ runtimes }: Pick<CriContext, "runtimes">, name: string): RuntimeHandler {
  const handler = runtimes.handlers.get(name === "" ? runtimes.defaultHandler : name);
  if (!handler) {
    throw invalid(
      `runtime_handler: no runtime for "${name}" is configured; known: ${[...runtimes.handlers.keys()].join(", ")}`,
    );
  }
  return handler;
}
