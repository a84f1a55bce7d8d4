/** CNI, as a runtime uses it: attach a pod's network namespace to the configured networks, and take it off again. */
import { statfs } from "node:fs/promises";
import { resolve } from "node:path";
import type { CallOptions, Hand } from "@berth/kernel";
import { type Attachment, AttachmentCache } from "./cache.ts";
import { type CniVersion, isAtLeast, type Json, type NetworkConf, type PluginConf } from "./conf.ts";
import { ConfDir } from "./confdir.ts";
import { sweepLeases } from "./leases.ts";
import { type Log, silent } from "./log.ts";
import { requireIdentifier, requireInterfaceName } from "./names.ts";
import { callPlugin, type CniCommand, CniError, explainMissing, findPlugin } from "./plugin.ts";
import { parseResult, sandboxAddresses } from "./result.ts";
import {
  type AttachRequest,
  type Capabilities,
  type CniOptions,
  type CniResult,
  type CniStatus,
  DEFAULT_BIN_DIRS,
  DEFAULT_CACHE_DIR,
  DEFAULT_CONF_DIR,
} from "./types.ts";

/** What undoing a failed ADD may take, however little time the request had left. */
const UNDO_TIMEOUT_MS = 30_000;
/** Nanoseconds since the epoch, to a microsecond. */
const instant = (): bigint => BigInt(Math.round((performance.timeOrigin + performance.now()) * 1000)) * 1000n;
/** statfs(2): what a pinned namespace's file is, as nsfs or, before Linux 3.19, procfs. */
const NAMESPACE_FS = new Set([0x6e736673, 0x9fa0]);

export class Cni {
  readonly #hand: Hand;
  readonly #binDirs: readonly string[];
  readonly #cache: AttachmentCache;
  readonly #owner: string | undefined;
  readonly #log: Log;
  readonly #confPath: string;
  /** The spec forbids two operations on one container at a time: the last one's end, by container. */
  readonly #busy = new Map<string, Promise<void>>();
  readonly #onCall: CniOptions["onCall"];
  #conf!: ConfDir;
  #probing: Promise<CniStatus> | undefined;

  private constructor(options: CniOptions) {
    this.#hand = options.hand;
    this.#binDirs = options.binDirs ?? DEFAULT_BIN_DIRS;
    this.#log = options.log ?? silent;
    this.#cache = new AttachmentCache(options.cacheDir ?? DEFAULT_CACHE_DIR, this.#log);
    this.#owner = options.owner;
    this.#onCall = options.onCall;
    this.#confPath = resolve(options.confDir ?? DEFAULT_CONF_DIR);
  }

  /** Reads the configuration and watches it. A directory without any is no error: `status()` says so until one comes. */
  static async open(options: CniOptions): Promise<Cni> {
    const cni = new Cni(options);
    const onChange = options.onChange;
    cni.#conf = await ConfDir.open(cni.#confPath, {
      max: options.maxNetworks ?? 1,
      log: cni.#log,
      ...(onChange ? { onChange: () => onChange() } : {}),
    });
    return cni;
  }

  /** Ends the watch. Calls under way go on. */
  close(): void {
    this.#conf.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.close();
  }

  /** Reads the configuration now, without waiting for the watch. */
  async reload(): Promise<void> {
    await this.#conf.reload();
  }

  get networks(): readonly NetworkConf[] {
    return this.#conf.loaded.networks;
  }

  /** By the configuration alone; `probe` asks the plugins too. */
  status(): CniStatus {
    const { networks, problems } = this.#conf.loaded;
    const network = networks[0]?.name;
    if (network !== undefined) return { ready: true, reason: "", network };
    const why = problems.map((problem) => problem.message).join("; ");
    const reason =
      why === ""
        ? `no cni network configured: no *.conflist or *.conf in ${this.#confPath}`
        : `no valid cni network in ${this.#confPath}: ${why}`;
    return { ready: false, reason, network };
  }

  /**
   * As `status`, after looking for every plugin's executable and, from spec 1.1 on, asking the plugins with STATUS. Those who ask
   * at the same time get the same answer.
   */
  probe(options: CallOptions = {}): Promise<CniStatus> {
    this.#probing ??= this.#probe(options).finally(() => (this.#probing = undefined));
    return this.#probing;
  }

  async #probe(options: CallOptions): Promise<CniStatus> {
    const status = this.status();
    for (const network of this.networks) {
      for (const plugin of network.plugins) {
        if ((await findPlugin(plugin.type, this.#binDirs)) === undefined) {
          return {
            ...status,
            ready: false,
            reason: `cni network ${JSON.stringify(network.name)} (${network.file}): ${explainMissing(plugin.type, this.#binDirs)}`,
          };
        }
      }
      if (!isAtLeast(network.cniVersion, "1.1.0")) continue;
      for (const plugin of network.plugins) {
        try {
          await this.#call(network, plugin, "STATUS", {}, undefined, options);
        } catch (error) {
          if (!(error instanceof CniError)) throw error;
          return { ...status, ready: false, reason: error.message };
        }
      }
    }
    return status;
  }

  /**
   * Attaches the namespace to every network, in order. On failure what was done is undone (DEL, with time of its own even
   * where `signal` was the reason) and the first error is thrown.
   */
  async add(request: AttachRequest, options: CallOptions = {}): Promise<CniResult> {
    const attachments = this.#plan(request);
    return await this.#exclusively(request.containerId, async () => {
      const done: Attachment[] = [];
      try {
        const results: Attachment[] = [];
        for (const attachment of attachments) {
          await this.#cache.put(attachment);
          done.push(attachment);
          const result = await this.#addOne(attachment, options);
          const attached = { ...attachment, result };
          await this.#cache.put(attached);
          done[done.length - 1] = attached;
          results.push(attached);
        }
        return summarize(results);
      } catch (error) {
        await this.#undo(done, error);
        throw error;
      }
    });
  }

  /**
   * Takes the container off every network it was attached to, in reverse order, by what was recorded at ADD; without a
   * record, by the present configuration. Safe to repeat. Every plugin is tried; the first failure is thrown at the end
   * and the record kept for the next try.
   */
  async del(request: AttachRequest, options: CallOptions = {}): Promise<void> {
    requireIdentifier("container id", request.containerId);
    await this.#exclusively(request.containerId, async () => {
      const recorded = await this.#cache.list(request.containerId);
      const attachments = recorded.length > 0 ? recorded : this.networks.length > 0 ? this.#plan(request) : [];
      const netns = await livingNamespace(request.netns);
      const failures: unknown[] = [];
      for (const attachment of attachments.toReversed())
        failures.push(...(await this.#delOne({ ...attachment, netns }, options)));
      throwFirst(failures);
    });
  }

  /** Whether an ADD is recorded, finished or not: a failed one that could be undone is not. */
  async isAttached(containerId: string): Promise<boolean> {
    requireIdentifier("container id", containerId);
    return (await this.#cache.list(containerId)).length > 0;
  }

  /** Asks the plugins whether all is as ADD left it; rejects with the first that says no. Networks before spec 0.4.0 or with disableCheck cannot be asked. */
  async check(request: AttachRequest, options: CallOptions = {}): Promise<void> {
    requireIdentifier("container id", request.containerId);
    await this.#exclusively(request.containerId, async () => {
      const recorded = await this.#cache.list(request.containerId);
      if (recorded.length === 0) throw new Error(`container ${request.containerId}: not attached to any cni network`);
      for (const attachment of recorded) {
        const { network, result } = attachment;
        if (!result)
          throw new Error(
            `container ${request.containerId}: its attachment to cni network ${JSON.stringify(network.name)} was never finished`,
          );
        if (network.disableCheck || !isAtLeast(network.cniVersion, "0.4.0")) continue;
        for (const plugin of network.plugins)
          await this.#call(
            network,
            plugin,
            "CHECK",
            { prevResult: result },
            { ...attachment, netns: request.netns },
            options,
          );
      }
    });
  }

  /**
   * Frees what is left of containers that are not in `valid`: recorded attachments of this owner by DEL, unrecorded ones by the
   * plugins' own GC (from spec 1.1 on), and addresses that no container has. What other runtimes recorded in the same cache
   * counts as valid. Every part is tried; rejects with the first that failed. No ADD may be under way.
   */
  async gc(valid: readonly string[], options: CallOptions = {}): Promise<void> {
    const keep = new Set(valid);
    const failures: unknown[] = [];
    const living: Attachment[] = [];
    for (const attachment of await this.#cache.list()) {
      if (keep.has(attachment.containerId) || attachment.owner === undefined || attachment.owner !== this.#owner) {
        living.push(attachment);
        continue;
      }
      this.#log.info(
        { containerId: attachment.containerId, network: attachment.network.name },
        "removing a stale cni attachment",
      );
      const netns = await livingNamespace(attachment.netns);
      failures.push(
        ...(await this.#exclusively(attachment.containerId, () => this.#delOne({ ...attachment, netns }, options))),
      );
    }
    for (const [index, network] of this.networks.entries()) {
      await sweepLeases(this.#hand, network).catch((error: unknown) => failures.push(error));
      if (network.disableGc || !isAtLeast(network.cniVersion, "1.1.0")) continue;
      const recorded = living.filter((attachment) => attachment.network.name === network.name);
      const known = new Set(recorded.map(({ containerId }) => containerId));
      // One whose record was lost is valid all the same.
      const unrecorded = valid.filter((id) => !known.has(id)).map((id) => [id, interfaceAt("eth0", index)] as const);
      const all = [...recorded.map(({ containerId, ifName }) => [containerId, ifName] as const), ...unrecorded];
      const list = all.map(([containerID, ifname]) => ({ containerID, ifname }));
      const extra = { "cni.dev/valid-attachments": list, "cni.dev/attachments": list };
      for (const plugin of network.plugins)
        await this.#call(network, plugin, "GC", extra, undefined, options).catch((error: unknown) =>
          failures.push(error),
        );
    }
    throwFirst(failures);
  }

  /** One attachment per network, checked before anything is done. */
  #plan(request: AttachRequest): Attachment[] {
    const status = this.status();
    if (!status.ready) throw new Error(status.reason);
    const ifName = request.ifName ?? "eth0";
    requireIdentifier("container id", request.containerId);
    const args = request.args ?? {};
    for (const [name, value] of Object.entries(args)) {
      if (/[;=]/.test(name) || value.includes(";"))
        throw new TypeError(`cni argument ${name}: ";" and "=" cannot be passed on`);
    }
    const capabilities = withoutEmpty(request.capabilities ?? {});
    const declared = new Set(
      this.networks.flatMap((network) => network.plugins.flatMap((plugin) => [...plugin.capabilities])),
    );
    if (capabilities["portMappings"] && !declared.has("portMappings")) {
      this.#log.warn(
        { containerId: request.containerId },
        "host ports are not mapped: no cni plugin of this node declares the capability portMappings (add the portmap plugin)",
      );
    }
    return this.networks.map((network, index) => {
      const name = interfaceAt(ifName, index);
      requireInterfaceName(name);
      return {
        network,
        containerId: request.containerId,
        ifName: name,
        netns: request.netns,
        args,
        capabilities,
        ...(this.#owner === undefined ? {} : { owner: this.#owner }),
      };
    });
  }

  async #addOne(attachment: Attachment, options: CallOptions): Promise<Json> {
    let previous: Json | undefined;
    const { network } = attachment;
    for (const plugin of network.plugins) {
      const fields = { plugin: plugin.type, network: network.name, command: "ADD", kind: "answer" } as const;
      const answer = await this.#call(
        network,
        plugin,
        "ADD",
        previous ? { prevResult: previous } : {},
        attachment,
        options,
      );
      if (answer === undefined) throw new CniError("it answered nothing", fields);
      previous = { cniVersion: network.cniVersion, ...answer };
      try {
        parseResult(previous);
      } catch (error) {
        throw new CniError(`its answer is not a result: ${(error as Error).message}`, fields, { cause: error });
      }
    }
    return previous ?? {};
  }

  /** Every plugin in reverse; what failed. The record goes when nothing did. */
  async #delOne(attachment: Attachment, options: CallOptions): Promise<unknown[]> {
    const { network, result } = attachment;
    const extra = result && isAtLeast(network.cniVersion, "0.4.0") ? { prevResult: result } : {};
    const failures: unknown[] = [];
    for (const plugin of network.plugins.toReversed()) {
      try {
        await this.#call(network, plugin, "DEL", extra, attachment, options);
      } catch (error) {
        failures.push(error);
      }
    }
    if (failures.length === 0) await this.#cache.remove(attachment);
    return failures;
  }

  async #undo(done: readonly Attachment[], reason: unknown): Promise<void> {
    for (const attachment of done.toReversed()) {
      const netns = await livingNamespace(attachment.netns);
      const failures = await this.#delOne({ ...attachment, netns }, { timeoutMs: UNDO_TIMEOUT_MS });
      // A plugin that could not be started has done nothing to undo; it is the error already on its way.
      const real = failures.filter(
        (failure) => !(isMissing(failure) && isMissing(reason) && failure.plugin === reason.plugin),
      );
      if (real.length === 0) await this.#cache.remove(attachment);
      for (const failure of real) {
        this.#log.warn(
          { containerId: attachment.containerId, error: failure },
          `cannot undo a failed cni attachment: ${(failure as Error).message}`,
        );
      }
      await sweepLeases(this.#hand, attachment.network).catch((error: Error) =>
        this.#log.warn({ containerId: attachment.containerId, error }, error.message),
      );
    }
  }

  async #call(
    network: NetworkConf,
    plugin: PluginConf,
    command: CniCommand,
    extra: Json,
    attachment: Attachment | undefined,
    options: CallOptions,
  ): Promise<Json | undefined> {
    const runtimeConfig =
      attachment && Object.entries(attachment.capabilities).filter(([name]) => plugin.capabilities.has(name));
    const conf = {
      ...plugin.raw,
      name: network.name,
      cniVersion: network.cniVersion satisfies CniVersion,
      ...(runtimeConfig && runtimeConfig.length > 0 ? { runtimeConfig: Object.fromEntries(runtimeConfig) } : {}),
      ...extra,
    };
    const about = attachment && {
      containerId: attachment.containerId,
      netns: attachment.netns,
      ifName: attachment.ifName,
      args: Object.entries(attachment.args)
        .map(([name, value]) => `${name}=${value}`)
        .join(";"),
    };
    const call = { network: network.name, plugin: plugin.type, command };
    const begun = { ...call, containerId: attachment?.containerId, startedAt: instant() };
    try {
      const invocation = { ...call, conf, ...(about ? { attachment: about } : {}) };
      const answer = await callPlugin(this.#hand, this.#binDirs, invocation, options);
      this.#onCall?.(begun);
      return answer;
    } catch (error) {
      this.#onCall?.({ ...begun, error });
      throw error;
    }
  }

  async #exclusively<T>(containerId: string, work: () => Promise<T>): Promise<T> {
    const before = this.#busy.get(containerId) ?? Promise.resolve();
    const mine = before.then(work);
    const settled = mine.then(
      () => {},
      () => {},
    );
    this.#busy.set(containerId, settled);
    try {
      return await mine;
    } finally {
      if (this.#busy.get(containerId) === settled) this.#busy.delete(containerId);
    }
  }
}

function isMissing(error: unknown): error is CniError {
  return error instanceof CniError && error.kind === "missing";
}

/** "eth0" is followed by "eth1"; a name without a number gets one. */
function interfaceAt(first: string, index: number): string {
  if (index === 0) return first;
  const match = /^(.*?)(\d+)$/.exec(first);
  return match ? `${match[1]}${Number(match[2]) + index}` : `${first}${index}`;
}

function withoutEmpty(capabilities: Capabilities): Json {
  const mappings = capabilities.portMappings?.filter((mapping) => mapping.hostPort > 0);
  // Field by field: a caller's object may carry more than the convention knows.
  const dns = capabilities.dns && {
    servers: capabilities.dns.servers,
    searches: capabilities.dns.searches,
    options: capabilities.dns.options,
  };
  const entries = Object.entries({ ...capabilities, portMappings: mappings, dns });
  return Object.fromEntries(
    entries.filter(([, value]) => value !== undefined && !(Array.isArray(value) && value.length === 0)),
  );
}

function summarize(attachments: readonly Attachment[]): CniResult {
  const first = attachments[0];
  const { interfaces, routes, dns, ips } = parseResult(first?.result ?? {});
  return {
    ips: first ? sandboxAddresses({ interfaces, routes, dns, ips }, first.ifName) : [],
    interfaces,
    routes,
    dns,
    networks: attachments.map((attachment) => ({
      network: attachment.network.name,
      ifName: attachment.ifName,
      result: attachment.result ?? {},
    })),
  };
}

/**
 * The path if a namespace is there, else "", with which plugins free what they hold outside it (spec 1.1, DEL). An
 * unpinned namespace leaves no file, or an empty one that plugins would stumble over.
 */
async function livingNamespace(path: string): Promise<string> {
  if (path === "") return "";
  try {
    return NAMESPACE_FS.has((await statfs(path)).type) ? path : "";
  } catch (error) {
    if (["ENOENT", "ENOTDIR"].includes((error as NodeJS.ErrnoException).code ?? "")) return "";
    throw error;
  }
}

function throwFirst(failures: readonly unknown[]): void {
  if (failures.length === 0) return;
  if (failures.length === 1) throw failures[0];
  throw new AggregateError(failures, failures.map((failure) => (failure as Error).message).join("; "), {
    cause: failures[0],
  });
}
