/** Puts berthd together, in the order in which its parts depend on each other, and takes it apart in reverse. */
import { mkdir } from "node:fs/promises";
import { type CriContext, CriServer, Events, Locks, type Log, containerStore, recover, sandboxStore } from "@berth/cri";
import { Images, openDatabase } from "@berth/image";
import { cgroupRemoval, probeHost, startHand } from "@berth/kernel";
import { Cni, ensureDefault } from "@berth/network";
import type { Options } from "./options.ts";
import { cgroupRootOf, prepareState, releaseState } from "./state.ts";

export interface Daemon {
  /** What recovery did, a line each. */
  readonly recovered: readonly string[];
  readonly context: CriContext;
  close(): Promise<void>;
}

export interface AssembleOptions {
  readonly options: Options;
  readonly version: string;
  readonly log: Log;
  readonly onStep?: CriContext["onStep"];
}

export async function assemble({ options, version, log, onStep }: AssembleOptions): Promise<Daemon> {
  await using parts = new AsyncDisposableStack();
  await mkdir(options.root, { recursive: true, mode: 0o711 });
  await mkdir(options.state, { recursive: true, mode: 0o711 });
  const hand = await startHand({ bosun: options.bosun, state: options.state });
  parts.defer(() => hand.close());
  await prepareState(hand, options);
  parts.defer(() => releaseState(hand, options));
  const host = await probeHost(hand);
  const database = await openDatabase(options.root);
  parts.defer(() => database.close());
  const images = await Images.open({
    root: options.root,
    hand,
    serveSocket: `${options.state}/serve.sock`,
    hostsDir: options.hostsDir,
    database,
    log: (level, message) => log[level]({}, message),
  });
  parts.defer(() => images.close());
  await ensureDefault({ hand, confDir: options.cniConfDir });
  const cni = await Cni.open({
    hand,
    confDir: options.cniConfDir,
    binDirs: options.cniBinDir,
    cacheDir: options.cniCacheDir,
    owner: options.root,
  });
  parts.defer(() => cni.close());
  const context: CriContext = {
    hand,
    host,
    images,
    cni,
    sandboxes: sandboxStore(database.sql),
    containers: containerStore(database.sql),
    locks: new Locks(),
    events: new Events(),
    paths: { root: options.root, state: options.state, netns: options.netnsDir },
    config: {
      maxLogLine: options.maxLogLine,
      cgroupRoot: cgroupRootOf(options.state),
      execDrainMs: options.execDrainMs,
      streamAddress: options.streamAddress,
      streamPort: options.streamPort,
      version,
    },
    log,
    onStep,
  };
  parts.defer(() => releaseCgroupRoot(context));
  parts.defer(() => closeLinks(context));
  const recovered = [...(await images.recover()), ...(await recover(context))];
  const server = await CriServer.listen(context, options.address);
  parts.defer(() => server.close());
  const open = parts.move();
  return { recovered, context, close: () => open.disposeAsync() };
}

/** With no container left, nothing of this daemon stays in the hierarchies. */
async function releaseCgroupRoot({ hand, host, config, containers, sandboxes }: CriContext): Promise<void> {
  if (containers.size + sandboxes.size === 0) await hand.run(cgroupRemoval(config.cgroupRoot, host));
}

/** Containers and their monitors live on; only the connections end. */
function closeLinks(context: CriContext): void {
  for (const container of context.containers.values()) container.link?.close();
  for (const sandbox of context.sandboxes.values()) sandbox.init?.link.close();
}
