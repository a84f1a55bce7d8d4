/** The shims of this daemon: one connection to each, and the event service that they tell. */
import { type Bootstrap, serveEvents, TaskService } from "@berth/shim";
import { CODE, TtrpcClosed, TtrpcError, type TtrpcServer } from "@berth/ttrpc";
import { status } from "@grpc/grpc-js";
import type { CriContext } from "../../context.ts";
import { CriError } from "../../errors.ts";
import { addressOf, NAMESPACE } from "./bundle.ts";

export class Shims {
  readonly #context: CriContext;
  readonly #services = new Map<string, Promise<TaskService>>();
  #events: Promise<TtrpcServer> | undefined;
  #isClosed = false;

  constructor(context: CriContext) {
    this.#context = context;
  }

  /** This daemon is ending: that connections end says nothing of their shims. */
  get isClosed(): boolean {
    return this.#isClosed;
  }

  /** Served from the first shim on: a shim that cannot connect to it does not start. */
  async listen(): Promise<void> {
    const onOom = (id: string): void => {
      const container = this.#context.containers.find(id);
      if (container && container.record.phase !== "exited") container.record.reason = "OOMKilled";
    };
    await (this.#events ??= serveEvents(`${addressOf(this.#context)}.ttrpc`, { onOom }));
  }

  /** Undefined: nobody serves at the address; the shim has ended. */
  async connect(shim: Bootstrap): Promise<TaskService | undefined> {
    const known = this.#services.get(shim.address);
    if (known) return await known.catch(() => undefined);
    const connecting = TaskService.connect(shim, NAMESPACE);
    this.#services.set(shim.address, connecting);
    const forget = (): void => void this.#services.delete(shim.address);
    try {
      const service = await connecting;
      void service.closed.then(forget);
      return service;
    } catch (error) {
      forget();
      if (["ENOENT", "ECONNREFUSED"].includes((error as NodeJS.ErrnoException).code ?? "")) return undefined;
      throw error;
    }
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    for (const service of this.#services.values()) (await service.catch(() => undefined))?.close();
    await (await this.#events)?.close();
  }
}

const opened = new WeakMap<CriContext, Shims>();

export function shimsOf(context: CriContext): Shims {
  const shims = opened.get(context) ?? new Shims(context);
  opened.set(context, shims);
  return shims;
}

export const closeShims = async (context: CriContext): Promise<void> => await opened.get(context)?.close();

/** A shim's refusal, to the CRI's caller. */
export async function inShimsWords<T>(what: string, work: Promise<T>): Promise<T> {
  try {
    return await work;
  } catch (error) {
    if (!(error instanceof TtrpcError)) throw error;
    throw new CriError(codeOf(error), `${what}: ${error.message}`, { cause: error });
  }
}

/** ttRPC has gRPC's codes. */
function codeOf({ code }: TtrpcError): status {
  const name = status[code] as keyof typeof status | undefined;
  return name === undefined ? status.UNKNOWN : status[name];
}

/** What a call to a process or container means that has gone: nothing. */
export async function unlessGone<T>(work: Promise<T>): Promise<T | undefined> {
  try {
    return await work;
  } catch (error) {
    if (error instanceof TtrpcClosed || isGone(error)) return undefined;
    throw error;
  }
}

/** runc's shim has NotFound for both; gVisor's tells by its words what runsc said of a process that has ended. */
const isGone = (error: unknown): boolean =>
  error instanceof TtrpcError &&
  (error.code === CODE.notFound || /process already finished|no such process|not found|not exist/i.test(error.message));
