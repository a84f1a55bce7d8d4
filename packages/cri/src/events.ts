/**
 * What happens to pods and containers, in order, for GetContainerEvents. The CRI has no word by which a client could say what
 * it has seen; so what nobody is known to have received is kept for a while and given to whoever asks next.
 */
import { create } from "@bufbuild/protobuf";
import { cri } from "@berth/spec";
import { now } from "./clock.ts";
import { containerStatus } from "./container/status.ts";
import type { CriContext } from "./context.ts";
import type { Send } from "./server/grpc.ts";
import { sandboxStatus } from "./sandbox/status.ts";
import { containersOf } from "./sandbox/stop.ts";
import type { Container, Sandbox } from "./store/records.ts";

export const {
  CONTAINER_CREATED_EVENT: CREATED,
  CONTAINER_STARTED_EVENT: STARTED,
  CONTAINER_STOPPED_EVENT: STOPPED,
  CONTAINER_DELETED_EVENT: DELETED,
} = cri.ContainerEventType;

/** ms; as containerd keeps them. */
const RETENTION = 5 * 60_000;
/** A bound on memory rather than on time: 200 pods that all come and go within the retention stay below it. */
const MOST_KEPT = 10_000;
/** ms; what was written to a stream this shortly before it broke may never have been read. */
const DOUBT = 1_000;

interface Kept {
  readonly serial: number;
  readonly at: number;
  readonly event: cri.ContainerEventResponse;
}

export interface EventsOptions {
  /** ms since the epoch. */
  readonly clock?: () => number;
  readonly retention?: number;
}

/** A stream that is being served, and what was lately written to it. */
interface Follower {
  readonly wake: () => void;
  readonly sent: { readonly serial: number; readonly at: number }[];
}

export class Events {
  readonly #clock: () => number;
  readonly #retention: number;
  readonly #followers = new Set<Follower>();
  #kept: Kept[] = [];
  #serial = 0;
  /** The last serial that some client is believed to have received. */
  #received = 0;
  #closed = false;

  constructor({ clock = Date.now, retention = RETENTION }: EventsOptions = {}) {
    this.#clock = clock;
    this.#retention = retention;
  }

  emit(event: cri.ContainerEventResponse): void {
    this.#kept.push({ serial: ++this.#serial, at: this.#clock(), event });
    this.#forgetOld();
    for (const { wake } of this.#followers) wake();
  }

  /** Ends all streams. */
  close(): void {
    this.#closed = true;
    for (const { wake } of this.#followers) wake();
  }

  /** Sends what no client has received yet, then each event as it comes, until `signal` aborts or `send` rejects. */
  async follow(signal: AbortSignal, send: Send<cri.ContainerEventResponse>): Promise<void> {
    this.#forgetOld();
    this.#settle();
    let last = this.#received;
    let woken = Promise.withResolvers<void>();
    const follower: Follower = { wake: () => woken.resolve(), sent: [] };
    this.#followers.add(follower);
    signal.addEventListener("abort", follower.wake, { once: true });
    try {
      while (!signal.aborted && !this.#closed) {
        woken = Promise.withResolvers<void>();
        for (const { serial, event } of this.#kept.filter((kept) => kept.serial > last)) {
          await send(event);
          last = serial;
          follower.sent.push({ serial, at: this.#clock() });
        }
        this.#settle();
        await woken.promise;
      }
    } finally {
      this.#settle();
      this.#followers.delete(follower);
      signal.removeEventListener("abort", follower.wake);
    }
  }

  #forgetOld(): void {
    const oldest = this.#clock() - this.#retention;
    const fresh = this.#kept.findIndex(({ at }) => at >= oldest);
    const from = Math.max(fresh < 0 ? this.#kept.length : fresh, this.#kept.length - MOST_KEPT);
    if (from > 0) this.#kept = this.#kept.slice(from);
  }

  /** What was written to a stream that has lived on since is believed to have been received. */
  #settle(): void {
    const sure = this.#clock() - DOUBT;
    for (const { sent } of this.#followers) {
      while (sent[0] !== undefined && sent[0].at <= sure)
        this.#received = Math.max(this.#received, sent.shift()?.serial ?? 0);
    }
  }
}

/** With the pod and all of its containers as they are at this moment. */
export function emitEvent(
  context: CriContext,
  type: cri.ContainerEventType,
  id: string,
  sandbox: Sandbox | undefined,
): void {
  context.events.emit(
    create(cri.ContainerEventResponseSchema, {
      containerId: id,
      containerEventType: type,
      createdAt: now(),
      podSandboxStatus: sandbox && sandboxStatus(sandbox),
      containersStatuses: sandbox
        ? containersOf(context, sandbox.record.id).map((container) => containerStatus(context, container))
        : [],
    }),
  );
}

/** Of a container; started and stopped once each, and never the second before the first. */
export function emitContainerEvent(context: CriContext, type: cri.ContainerEventType, container: Container): void {
  const { record } = container;
  const told = (container.told ??= new Set());
  if (told.has(type)) return;
  if (type === STOPPED && record.startedAt > 0n && !told.has(STARTED)) emitContainerEvent(context, STARTED, container);
  told.add(type);
  emitEvent(context, type, record.id, context.sandboxes.find(record.sandboxId));
}
