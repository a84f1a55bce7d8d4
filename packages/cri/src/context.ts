/** What every verb of the CRI works with: made once by the daemon's assembly. */
import type { Cni } from "@berth/network";
import type { Images } from "@berth/image";
import type { Hand, HostFacts, SystemdLink } from "@berth/kernel";
import type { CdiSpecs } from "./container/cdi.ts";
import type { NvidiaGpus } from "./container/nvidia.ts";
import type { Events } from "./events.ts";
import type { HandlerTable, RuntimeHandler } from "./handlers.ts";
import type { Locks } from "./lock.ts";
import type { Log } from "./log.ts";
import type { NriPlugins } from "./nri/plugins.ts";
import type { RuntimeKind } from "./runtimes/kind.ts";
import type { CriSettings } from "./settings.ts";
import type { Container, ContainerRecord, Sandbox, SandboxRecord } from "./store/records.ts";
import type { Telemetry } from "./telemetry/telemetry.ts";
import type { Store } from "./store/store.ts";

export interface Paths {
  /** Persistent: images, snapshots, database. */
  readonly root: string;
  /** Until the next boot: sockets, pins, monitors. */
  readonly state: string;
  /** The bosun binary. */
  readonly bosun: string;
  /** Where network namespaces are pinned, as `ip netns` does: /run/netns. */
  readonly netns: string;
}

export interface CriConfig extends CriSettings {
  /** Above pods without a cgroup parent of their own. */
  readonly cgroupRoot: string;
  readonly version: string;
}

export interface CriContext {
  readonly hand: Hand;
  readonly host: HostFacts;
  /** Asked only for handlers with SystemdCgroup. */
  readonly systemd: SystemdLink;
  readonly images: Images;
  /** The node's own networks; it can undo any attachment. */
  readonly cni: Cni;
  /** The networks of a handler's pods. */
  readonly cniOf: (handler: RuntimeHandler) => Promise<Cni>;
  readonly cdi: CdiSpecs;
  readonly nvidia: NvidiaGpus;
  readonly nri: NriPlugins;
  readonly sandboxes: Store<SandboxRecord, Sandbox>;
  readonly containers: Store<ContainerRecord, Container>;
  readonly locks: Locks;
  readonly events: Events;
  readonly paths: Paths;
  readonly config: CriConfig;
  /** Replaced as a whole when the configuration is read again. */
  runtimes: HandlerTable;
  /** What can serve a handler; the first that does, does. */
  readonly kinds: readonly RuntimeKind[];
  readonly telemetry: Telemetry;
  readonly log: Log;
  /** Called before each step of the verbs that make things; tests stop the daemon there. */
  readonly onStep?: ((operation: string, step: string) => void) | undefined;
}

/** Where `berth run` keeps logs: a directory for each pod, right below. */
export const logRoot = ({ paths }: Pick<CriContext, "paths">): string => `${paths.root}/logs`;
export const sandboxDir = (context: CriContext, id: string): string => `${context.paths.state}/pods/${id}`;
export const containerDir = (context: CriContext, id: string): string => `${context.paths.state}/containers/${id}`;

/** Of all of this daemon's virtual machines, each in a directory of its own. */
export const machinesDir = ({ paths }: CriContext): string => `${paths.state}/vm`;
