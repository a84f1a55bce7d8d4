/** systemd's manager: transient scopes and slices, and what may be changed of them (org.freedesktop.systemd1(5)). */
import { access } from "node:fs/promises";
import { Bus, DBusCallError, type DBusMessage } from "./bus.ts";
import { DBusError, type DBusValue, type Variant } from "./marshal.ts";

const SERVICE = "org.freedesktop.systemd1";
const OBJECT = "/org/freedesktop/systemd1";
const MANAGER = "org.freedesktop.systemd1.Manager";
/** How long a unit may take to start or stop. */
const JOB_MS = 30_000;
const DEFAULT_SYSTEM_BUS = "/run/dbus/system_bus_socket";
const PRIVATE_SOCKET = "/run/systemd/private";

export type UnitProperty = readonly [name: string, value: Variant];

export interface TransientUnit {
  /** "berth-c1.scope", or a slice. */
  readonly name: string;
  readonly properties: readonly UnitProperty[];
}

export class SystemdManager {
  readonly #bus: Bus;
  readonly #jobs = new Map<string, (result: string) => void>();
  /** Results that came before somebody waited. */
  readonly #results = new Map<string, string>();

  private constructor(bus: Bus) {
    this.#bus = bus;
    bus.onSignal((signal) => this.#jobRemoved(signal));
  }

  /**
   * The system bus (DBUS_SYSTEM_BUS_ADDRESS, as in "unix:path=/run/dbus/system_bus_socket"), else systemd's own socket. With
   * `userBus` the user's manager.
   */
  static async connect(address?: string): Promise<SystemdManager> {
    const { path, isPrivate } = await socketOf(address);
    const bus = await Bus.connect(path, isPrivate).catch((error: Error) => {
      throw new DBusError(`cannot reach systemd at ${path}: ${error.message}; is it this machine's init?`, {
        cause: error,
      });
    });
    const manager = new SystemdManager(bus);
    if (!isPrivate)
      await bus.match(`type='signal',sender='${SERVICE}',interface='${MANAGER}',member='JobRemoved',path='${OBJECT}'`);
    await manager.#call("Subscribe").catch((error: unknown) => {
      if (!(error instanceof DBusCallError) || !error.errorName.endsWith(".AlreadySubscribed")) throw error;
    });
    return manager;
  }

  /** The major version: "252" of "252.39-1~deb12u1". */
  async version(): Promise<number> {
    const [variant] = await this.#bus.call({
      destination: SERVICE,
      path: OBJECT,
      interface: "org.freedesktop.DBus.Properties",
      member: "Get",
      signature: "ss",
      body: [MANAGER, "Version"],
    });
    const text = textOf((variant as Variant | undefined)?.value);
    const version = Number(/\d+/.exec(text)?.[0]);
    if (!Number.isInteger(version)) throw new DBusError(`systemd's version ${JSON.stringify(text)} has no number`);
    return version;
  }

  /**
   * Starts a scope or slice and waits until it is. A unit of that name that has failed before is reset and tried again; one
   * that runs is an error (UnitExists).
   */
  async start(unit: TransientUnit): Promise<void> {
    const start = async () =>
      await this.#job("StartTransientUnit", "ssa(sv)a(sa(sv))", [
        unit.name,
        "fail",
        unit.properties.map(([name, value]) => [name, value]),
        [],
      ]);
    let result: string;
    try {
      result = await start();
    } catch (error) {
      if (!(error instanceof DBusCallError) || !error.errorName.endsWith(".UnitExists")) throw error;
      await this.resetFailed(unit.name);
      result = await start();
    }
    if (result !== "done") {
      await this.resetFailed(unit.name);
      throw new DBusError(`unit ${unit.name} was not started: ${result}`);
    }
  }

  /** Stops a unit; one that is not there is success. */
  async stop(name: string): Promise<void> {
    try {
      const result = await this.#job("StopUnit", "ss", [name, "replace"]);
      if (result !== "done") throw new DBusError(`unit ${name} was not stopped: ${result}`);
    } catch (error) {
      if (!(error instanceof DBusCallError) || !error.errorName.endsWith(".NoSuchUnit")) throw error;
    }
    await this.resetFailed(name);
  }

  /** Until the next boot, not on disk. */
  async setProperties(name: string, properties: readonly UnitProperty[]): Promise<void> {
    await this.#call("SetUnitProperties", "sba(sv)", [name, true, properties.map(([key, value]) => [key, value])]);
  }

  /** Puts processes into a unit's cgroup, or one below it (systemd 241). */
  async attach(name: string, subgroup: string, pids: readonly number[]): Promise<void> {
    await this.#call("AttachProcessesToUnit", "ssau", [name, subgroup, pids]);
  }

  async resetFailed(name: string): Promise<void> {
    await this.#call("ResetFailedUnit", "s", [name]).catch((error: unknown) => {
      if (!(error instanceof DBusCallError) || !error.errorName.endsWith(".NoSuchUnit")) throw error;
    });
  }

  close(): void {
    this.#bus.close();
  }

  async #call(member: string, signature = "", body: readonly DBusValue[] = []): Promise<readonly DBusValue[]> {
    return await this.#bus.call({ destination: SERVICE, path: OBJECT, interface: MANAGER, member, signature, body });
  }

  /** A method that answers with a job, to the job's end: "done", "failed", "canceled", "timeout" … */
  async #job(member: string, signature: string, body: readonly DBusValue[]): Promise<string> {
    const [path] = await this.#call(member, signature, body);
    const job = textOf(path);
    const early = this.#results.get(job);
    if (early !== undefined) return early;
    const { promise, resolve, reject } = Promise.withResolvers<string>();
    const timer = setTimeout(() => reject(new DBusError(`${member} ${textOf(body[0])}: not done in time`)), JOB_MS);
    this.#jobs.set(job, resolve);
    try {
      return await promise;
    } finally {
      clearTimeout(timer);
      this.#jobs.delete(job);
    }
  }

  /** JobRemoved(u id, o job, s unit, s result). */
  #jobRemoved({ member, body }: DBusMessage): void {
    if (member !== "JobRemoved") return;
    const [, job, , result] = body.map(textOf);
    if (job === undefined || result === undefined) return;
    const waiting = this.#jobs.get(job);
    if (waiting !== undefined) waiting(result);
    else this.#results.set(job, result);
  }
}

/** A text or number that came; anything else is "". */
function textOf(value: DBusValue | undefined): string {
  return typeof value === "string" ? value : typeof value === "number" ? String(value) : "";
}

async function socketOf(given?: string): Promise<{ path: string; isPrivate: boolean }> {
  const address = given ?? process.env["DBUS_SYSTEM_BUS_ADDRESS"];
  if (address !== undefined && address !== "") {
    const path = /(?:^|;)unix:(?:[^;]*,)?path=([^,;]+)/.exec(address)?.[1];
    if (path === undefined) throw new DBusError(`${JSON.stringify(address)} names no unix socket (unix:path=…)`);
    return { path: decodeURIComponent(path), isPrivate: false };
  }
  const hasBus = await access(DEFAULT_SYSTEM_BUS).then(
    () => true,
    () => false,
  );
  return hasBus ? { path: DEFAULT_SYSTEM_BUS, isPrivate: false } : { path: PRIVATE_SOCKET, isPrivate: true };
}
