/** Puts berthd together, in the order in which its parts depend on each other, and takes it apart in reverse. */
import { access, mkdir, writeFile } from "node:fs/promises";
import {
  CdiSpecs,
  NvidiaGpus,
  type CriContext,
  CriServer,
  Events,
  ImageCollector,
  Locks,
  NriPlugins,
  type Log,
  containerStore,
  recover,
  sandboxStore,
  runtimeKinds,
  vmKind,
  Telemetry,
} from "@berth/cri";
import { Images, openDatabase } from "@berth/image";
import { cgroupRemoval, probeHost, startHand, SystemdLink } from "@berth/kernel";
import { Cni, type CniCall, ensureDefault } from "@berth/network";
import type { Settings } from "./config/settings.ts";
import { serveMetrics } from "./metrics-server.ts";
import { networks } from "./networks.ts";
import { openTraces } from "./traces.ts";
import { cgroupRootOf, prepareState, releaseState } from "./state.ts";

export interface Daemon {
  /** What recovery did, a line each. */
  readonly recovered: readonly string[];
  readonly context: CriContext;
  /** As at the start: SIGHUP changes the context alone. */
  readonly settings: Settings;
  close(): Promise<void>;
}

export interface AssembleOptions {
  readonly settings: Settings;
  readonly version: string;
  readonly log: Log;
  readonly onStep?: CriContext["onStep"];
}

export async function assemble({ settings, version, log, onStep }: AssembleOptions): Promise<Daemon> {
  await using parts = new AsyncDisposableStack();
  await mkdir(settings.root, { recursive: true, mode: 0o711 });
  await mkdir(`${settings.state}/vm`, { recursive: true, mode: 0o711 });
  const hand = await startHand({ bosun: settings.bosun, state: settings.state });
  parts.defer(() => hand.close());
  // Only now: what bosun starts must not inherit it.
  if (settings.oomScore !== 0) await writeFile("/proc/self/oom_score_adj", String(settings.oomScore));
  await prepareState(hand, settings);
  parts.defer(() => releaseState(hand, settings));
  const host = await probeHost(hand);
  const database = await openDatabase(settings.root);
  parts.defer(() => database.close());
  const images = await Images.open({
    root: settings.root,
    hand,
    serveSocket: `${settings.state}/serve.sock`,
    registries: settings.registry,
    verification: settings.verification,
    authFile: settings.authFile,
    maxConcurrentDownloads: settings.maxConcurrentDownloads,
    snapshotter: settings.snapshotter,
    verity: settings.verity,
    writableLayerSize: settings.writableLayerSize,
    pinned: settings.pinned,
    database,
    log: (level, message) => log[level]({}, message),
  });
  parts.defer(() => images.close());
  // With a template, the kubelet says which addresses the network has.
  if (!settings.cri.cniTemplate) await ensureDefault({ hand, confDir: settings.cni.confDir });
  const traces = settings.tracing && parts.use(await openTraces(settings.tracing, version, log));
  const telemetry = new Telemetry(traces?.tracing);
  const common = {
    hand,
    binDirs: settings.cni.binDirs,
    cacheDir: settings.cni.cacheDir,
    owner: settings.root,
    onCall: (call: CniCall) => telemetry.plugin(call),
  };
  const { confDir, maxNetworks } = settings.cni;
  const cni = await Cni.open({ ...common, confDir, maxNetworks });
  parts.defer(() => cni.close());
  const handlerNetworks = parts.use(networks(cni, common, maxNetworks));
  await checkSystemd(settings.handlers, log);
  const systemd = new SystemdLink();
  parts.defer(() => systemd.close());
  const nvidia = new NvidiaGpus(log);
  parts.defer(() => nvidia.close());
  const nri = new NriPlugins(settings.nri);
  // As berth-vm build-image has it, for the default root.
  const vm = parts.use(vmKind({ image: `${settings.root}/vm/image` }));
  const context: CriContext = {
    hand,
    host,
    systemd,
    images,
    cni,
    cniOf: (handler) => handlerNetworks.of(handler),
    cdi: new CdiSpecs(log),
    nvidia,
    nri,
    sandboxes: sandboxStore(database.sql, log),
    containers: containerStore(database.sql, log),
    locks: new Locks(),
    events: new Events(),
    paths: { root: settings.root, state: settings.state, bosun: settings.bosun, netns: settings.netnsDir },
    config: {
      ...settings.cri,
      cgroupRoot: cgroupRootOf(settings.state),
      version,
    },
    runtimes: settings.handlers,
    kinds: [vm, ...runtimeKinds],
    telemetry,
    log,
    onStep,
  };
  parts.defer(() => releaseCgroupRoot(context));
  parts.defer(() => closeLinks(context));
  parts.defer(async () => {
    for (const kind of runtimeKinds) await kind.close?.(context);
  });
  const recovered = [...(await images.recover()), ...(await recover(context))];
  parts.use(nri);
  await nri.open(context);
  if (settings.collection !== undefined) parts.use(new ImageCollector(context, settings.collection)).start();
  const server = await CriServer.listen(context, settings.addresses, settings.socketGid);
  parts.defer(() => server.close());
  if (settings.metricsAddress !== undefined) parts.use(await serveMetrics(context, settings.metricsAddress));
  const open = parts.move();
  return { recovered, context, settings, close: () => open.disposeAsync() };
}

/** With no container left, nothing of this daemon stays in the hierarchies but a slice, which is systemd's. */
async function releaseCgroupRoot({ hand, host, config, containers, sandboxes }: CriContext): Promise<void> {
  if (containers.size + sandboxes.size === 0) await hand.run(cgroupRemoval(config.cgroupRoot, host));
}

/** sd_booted(3). */
async function checkSystemd({ handlers }: Settings["handlers"], log: Log): Promise<void> {
  const asking = [...handlers.values()].filter(({ options }) => options.systemdCgroup).map(({ name }) => name);
  const isBooted = await access("/run/systemd/system").then(
    () => true,
    () => false,
  );
  if (asking.length > 0 && !isBooted)
    log.warn(
      { handlers: asking },
      "SystemdCgroup = true, but this machine's init is not systemd: no container of these handlers can be made",
    );
}

/** Containers and their monitors live on; only the connections end. */
function closeLinks(context: CriContext): void {
  for (const container of context.containers.values()) container.link?.close();
  for (const sandbox of context.sandboxes.values()) sandbox.init?.link?.close();
}
