/** systemd for a daemon, which outlives its connections: a re-executed systemd or a restarted bus is asked again. */
import { setTimeout } from "node:timers/promises";
import type { oci } from "@berth/spec";
import type { HostFacts } from "../host.ts";
import { DBusCallError, DBusLost } from "./bus.ts";
import { SystemdManager } from "./manager.ts";
import { DBusError } from "./marshal.ts";
import type { SystemdPlace } from "./names.ts";
import { startScope, stopScope, updateScope, type ScopeRequest } from "./scope.ts";

/** How long systemd may be away: re-executing itself it takes less than a second, with some thousand units a few. */
const PATIENCE_MS = 15_000;
const [FIRST_WAIT_MS, LAST_WAIT_MS] = [20, 500];
/** What a bus answers for a service that is not there at the moment, or went before it had answered. */
const AWAY = /^org\.freedesktop\.DBus\.Error\.(NoReply|ServiceUnknown|NameHasNoOwner|Disconnected|Spawn\.\w+)$/;

export interface LinkOptions {
  /** Default: systemd as SystemdManager.connect finds it. */
  readonly connect?: () => Promise<SystemdManager>;
  readonly patienceMs?: number;
}

/** Connects when it is first asked. Every failure is a DBusError or ResourceError that names the unit. */
export class SystemdLink {
  readonly #connect: () => Promise<SystemdManager>;
  readonly #patienceMs: number;
  #manager: Promise<SystemdManager> | undefined;
  #isClosed = false;

  constructor({ connect = () => SystemdManager.connect(), patienceMs = PATIENCE_MS }: LinkOptions = {}) {
    this.#connect = connect;
    this.#patienceMs = patienceMs;
  }

  /** As startScope; the unit's name must be nobody else's, for one that is there at a second try is taken for the first one's. */
  async start(request: ScopeRequest, signal?: AbortSignal): Promise<void> {
    const { unit } = request.place;
    await this.#do(unit, signal, async (manager, isFirst) => {
      try {
        await startScope(manager, request);
      } catch (error) {
        if (isFirst || !(error instanceof DBusCallError) || !error.errorName.endsWith(".UnitExists")) throw error;
        const state = await manager.state(unit);
        if (state !== "active") throw new DBusLost(`it is ${state ?? "gone"}`, { cause: error });
      }
    });
  }

  async update(
    place: SystemdPlace,
    resources: oci.LinuxResources,
    host: HostFacts,
    signal?: AbortSignal,
  ): Promise<void> {
    await this.#do(place.unit, signal, (manager) => updateScope(manager, place, resources, host));
  }

  /** A unit that is gone already is success. */
  async stop(place: SystemdPlace, signal?: AbortSignal, patienceMs = this.#patienceMs): Promise<void> {
    await this.#do(place.unit, signal, (manager) => stopScope(manager, place), patienceMs);
  }

  /** What is asked from now on fails. */
  close(): void {
    const manager = this.#manager;
    this.#manager = undefined;
    this.#isClosed = true;
    void manager?.then(
      (open) => open.close(),
      () => undefined,
    );
  }

  async #do(
    unit: string,
    signal: AbortSignal | undefined,
    work: (manager: SystemdManager, isFirst: boolean) => Promise<void>,
    patienceMs = this.#patienceMs,
  ): Promise<void> {
    const deadline = Date.now() + patienceMs;
    for (let wait = FIRST_WAIT_MS; ; wait = Math.min(wait * 2, LAST_WAIT_MS)) {
      try {
        return await orAborted(
          signal,
          this.#open().then((manager) => work(manager, wait === FIRST_WAIT_MS)),
        );
      } catch (error) {
        if (!isAway(error) || Date.now() + wait > deadline) throw named(unit, error);
      }
      await setTimeout(wait, undefined, { ...(signal && { signal }) });
    }
  }

  #open(): Promise<SystemdManager> {
    return (this.#manager ??= this.#opened());
  }

  async #opened(): Promise<SystemdManager> {
    if (this.#isClosed) throw new DBusError("the connection was closed");
    const manager = await this.#connect().catch((error: unknown) => {
      this.#manager = undefined;
      throw error;
    });
    void manager.ended.then(() => (this.#manager = undefined));
    return manager;
  }
}

function isAway(error: unknown): boolean {
  return error instanceof DBusLost || (error instanceof DBusCallError && AWAY.test(error.errorName));
}

function named(unit: string, error: unknown): unknown {
  if (!(error instanceof DBusError)) return error;
  const Kind = error instanceof DBusLost ? DBusLost : DBusError;
  return new Kind(`systemd unit ${unit}: ${error.message}`, { cause: error });
}

/** What was asked of systemd goes on; only the waiting for it ends. */
async function orAborted<T>(signal: AbortSignal | undefined, work: Promise<T>): Promise<T> {
  if (signal === undefined) return await work;
  const { promise, reject } = Promise.withResolvers<never>();
  const abort = (): void => reject(signal.reason as Error);
  if (signal.aborted) abort();
  signal.addEventListener("abort", abort, { once: true });
  try {
    return await Promise.race([work, promise]);
  } finally {
    signal.removeEventListener("abort", abort);
  }
}
