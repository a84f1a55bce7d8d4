/** NVIDIA's GPUs as resources of the node: found by NVML, watched by XID events, offered to the kubelet. */
import { statSync } from "node:fs";
import { type DirWatch, watchDirs } from "@berth/cdi";
import { socketDirectory } from "../kubelet.ts";
import type { PluginMetrics } from "../metrics.ts";
import { type Log, Registrations } from "../registrations.ts";
import { NvmlError } from "../../nvml/library.ts";
import { discover, driverRoot, nvmlLibrary } from "./discover.ts";
import { Health } from "./health.ts";
import type { Inventory } from "./inventory.ts";
import { assertMpsCan, mpsDirectory, mpsProblem } from "./mps.ts";
import { listed, type NvidiaDevice, type NvidiaResource, resourcesOf } from "./offers.ts";
import { type Flags, type NvidiaSettings } from "./settings.ts";
import type { XidRules } from "./xids.ts";

export interface NvidiaPluginOptions {
  readonly settings: NvidiaSettings;
  readonly rules: XidRules;
  readonly kubeletSocket: string;
  /** Where its CDI specifications are written. */
  readonly cdiDir: string;
  readonly log: Log;
  readonly metrics?: PluginMetrics;
  readonly retryMs?: number;
  /** ms between looks at what NVML has, and at MPS control daemons: they come and go without an event. */
  readonly examineMs?: number;
  /** See Health. */
  readonly quietMs?: number;
}

const EXAMINE_MS = 30_000;
const QUIET_MS = 300_000;
/** ms. Several events of one change are one. */
const SETTLE_MS = 20;

export class NvidiaPlugin {
  readonly #options: NvidiaPluginOptions;
  readonly #registrations: Registrations<NvidiaDevice>;
  readonly #health: Health;
  readonly #library: string;
  /** Of resources that are shared by MPS: what keeps them from being used. */
  readonly #mps = new Map<string, string | undefined>();
  #known: Inventory | undefined;
  /** GPUs' UUIDs, with what NVML says. */
  #lost: ReadonlyMap<string, string> = new Map();
  #found = "";
  #resources: NvidiaResource[] = [];
  #watched: { readonly dirs: string; readonly watch: DirWatch } | undefined;
  #timer: NodeJS.Timeout | undefined;
  #settle: NodeJS.Timeout | undefined;
  #work: Promise<void> = Promise.resolve();
  #closed = false;

  private constructor(given: NvidiaPluginOptions) {
    const options = { ...given, settings: withChannels(given.settings) };
    const { log, metrics, quietMs, rules, settings } = options;
    this.#options = options;
    const again = (): void => void this.examine();
    this.#registrations = new Registrations(options, again);
    this.#library = nvmlLibrary(settings.flags);
    const health = { library: this.#library, rules, quietMs: quietMs ?? QUIET_MS, log, metrics, onChange: again };
    this.#health = new Health(health);
    if (metrics)
      metrics.mpsDaemons = () => new Map([...this.#mps].map(([name, problem]) => [name, problem === undefined]));
  }

  /**
   * Resolves when the kubelet has been told of what there is. Rejects where NVML or the MIG strategy says no, unless `failOnInitError` is
   * off: then it is tried again later.
   */
  static async start(options: NvidiaPluginOptions): Promise<NvidiaPlugin> {
    const plugin = new NvidiaPlugin(options);
    plugin.#watchOver([]);
    const first = plugin.#examine();
    // What is seen meanwhile waits for it; its error is for who waits below.
    plugin.#work = first.catch(() => {});
    try {
      await first;
    } catch (error) {
      if (options.settings.flags.failOnInitError) {
        await plugin.close();
        throw error;
      }
      options.log.error({ err: error }, `no GPU is offered: ${(error as Error).message}`);
    }
    plugin.#timer = setInterval(() => void plugin.examine(), options.examineMs ?? EXAMINE_MS).unref();
    return plugin;
  }

  /** Looks at everything now; resolves when the kubelet has been told. */
  examine(): Promise<void> {
    this.#work = this.#work.then(async () => {
      try {
        await this.#examine();
      } catch (error) {
        this.#options.log.error({ err: error }, (error as Error).message);
      }
    });
    return this.#work;
  }

  async close(): Promise<void> {
    this.#closed = true;
    clearInterval(this.#timer);
    clearTimeout(this.#settle);
    this.#watched?.watch.close();
    await this.#work;
    await this.#health[Symbol.asyncDispose]();
    await this.#registrations.close();
  }

  async #examine(): Promise<void> {
    if (this.#closed) return;
    await this.#registrations.dropLost();
    await this.#watched?.watch.rearm();
    const found = this.#discover();
    await this.#renew(found);
    if (this.#watchOver(this.#mpsResources().map(({ offer }) => mpsDirectory(offer.name, this.#flags))))
      await this.#watched?.watch.rearm();
    await this.#lookAtMps();
    await this.#registrations.keepOnly(this.#resources.map(({ offer }) => offer.name));
    for (const resource of this.#resources) await this.#offer(resource);
    // After what takes the kubelet's time: events that came meanwhile are heard all the same.
    if (found.platform === "nvml") await this.#health.watch(found.gpus);
  }

  get #flags(): Flags {
    return this.#options.settings.flags;
  }

  async #offer(resource: NvidiaResource): Promise<void> {
    const { offer } = resource;
    const problem = this.#mps.get(offer.name);
    // Who were given a share before there is a daemon would have the whole GPU; later, it is the shares that are unhealthy.
    if (problem !== undefined && !this.#registrations.has(offer.name)) return;
    const problems = new Map([...this.#health.problems(), ...this.#lost]);
    if (problem !== undefined) for (const { uuid } of resource.gpus) problems.set(uuid, problem);
    await this.#registrations.offer(offer, listed(resource, problems));
  }

  /** A GPU that has fallen off the bus, and one of which NVML says nothing any more, stays in the list, and is not well. */
  #discover(): Inventory {
    const known = this.#known;
    let found: Inventory;
    try {
      found = discover(this.#options.settings, this.#library);
    } catch (error) {
      if (!(error instanceof NvmlError) || known === undefined) throw error;
      this.#options.log.error({ err: error }, error.message);
      found = { ...known, gpus: [], lost: error.message };
    }
    const { lost } = found;
    const gone =
      known?.gpus.filter(({ uuid }) => lost !== undefined && !found.gpus.some((gpu) => gpu.uuid === uuid)) ?? [];
    this.#lost = new Map(gone.map(({ uuid }) => [uuid, lost ?? ""]));
    const all = gone.length === 0 ? found : { ...(known ?? found), lost };
    this.#known = all;
    return all;
  }

  /** New resources and specifications, when there are other devices than before. */
  async #renew(found: Inventory): Promise<void> {
    const seen = JSON.stringify(found.gpus);
    if (seen === this.#found) return;
    const { settings, log, cdiDir } = this.#options;
    const named = resourcesOf(found, settings);
    assertMpsCan(
      named.flatMap(({ gpus }) => gpus),
      settings,
    );
    if (named.length === 0) log.warn({}, "no devices found: NVML knows no GPU that could be offered");
    const byCdi = named.length > 0 && this.#flags.deviceListStrategy.some((one) => one.startsWith("cdi-"));
    const kinds: string[] = [];
    if (byCdi) {
      // What makes them is loaded where it is wanted.
      const { specificationsOf, writeSpecifications } = await import("./specifications.ts");
      const specs = specificationsOf(settings, found, this.#library);
      await writeSpecifications(cdiDir, specs);
      kinds.push(...specs.map(({ kind }) => kind));
    }
    this.#resources = resourcesOf(found, settings, kinds);
    this.#found = seen;
  }

  #mpsResources(): NvidiaResource[] {
    const isMps = this.#options.settings.sharing?.strategy === "mps";
    return isMps ? this.#resources.filter(({ replicas }) => replicas > 1) : [];
  }

  async #lookAtMps(): Promise<void> {
    for (const { offer } of this.#mpsResources()) {
      const problem = await mpsProblem(offer.name, this.#flags);
      const isNew = !this.#mps.has(offer.name) || this.#mps.get(offer.name) !== problem;
      this.#mps.set(offer.name, problem);
      if (!isNew) continue;
      if (problem === undefined) this.#options.log.info({ resource: offer.name }, "the MPS control daemon is healthy");
      else this.#options.log.warn({ resource: offer.name }, `not to be used: ${problem}`);
    }
  }

  /** `more`: beside the kubelet's directory. Whether these are others than before. */
  #watchOver(more: readonly string[]): boolean {
    const dirs = [socketDirectory(this.#options.kubeletSocket), ...more];
    const key = dirs.join("\n");
    if (this.#watched?.dirs === key) return false;
    this.#watched?.watch.close();
    const changed = (): void => {
      if (this.#closed) return;
      this.#settle ??= setTimeout(() => {
        this.#settle = undefined;
        void this.examine();
      }, SETTLE_MS).unref();
    };
    this.#watched = { dirs: key, watch: watchDirs(dirs, changed) };
    return true;
  }
}

/** Channels of IMEX that are not there are left out, unless they are required. Throws Error. */
function withChannels(settings: NvidiaSettings): NvidiaSettings {
  const { channelIDs, required } = settings.imex;
  const places = [settings.flags.nvidiaDevRoot ?? driverRoot(settings.flags), settings.flags.containerDriverRoot, "/"];
  const pathOf = (place: string, id: number): string =>
    `${place.replace(/\/+$/, "")}/dev/nvidia-caps-imex-channels/channel${id}`;
  const there = channelIDs.filter((id) =>
    places.some((place) => statSync(pathOf(place, id), { throwIfNoEntry: false })?.isCharacterDevice()),
  );
  const missing = channelIDs.find((id) => !there.includes(id));
  if (required && missing !== undefined)
    throw new Error(`requested IMEX channel ${missing} does not exist: ${pathOf(places[0] ?? "", missing)}`);
  return { ...settings, imex: { channelIDs: there, required } };
}
