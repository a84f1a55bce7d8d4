/** systemd's manager: transient scopes and slices, and what may be changed of them (org.freedesktop.systemd1(5)). */
import { access } from "node:fs/promises";
import { Bus, DBusCallError, DBusLost, type DBusMessage } from "./bus.ts";
import { DBusError, type DBusValue, type Variant } from "./marshal.ts";

const SERVICE = "org.freedesktop.systemd1";
const OBJECT = "/org/freedesktop/systemd1";
const MANAGER = "org.freedesktop.systemd1.Manager";
const UNIT = "org.freedesktop.systemd1.Unit";
const PROPERTIES = "org.freedesktop.DBus.Properties";
const BUS = "org.freedesktop.DBus";
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
  readonly #jobs = new Map<string, PromiseWithResolvers<string>>();
  /** Methods whose job is not known yet: only while there are any, ends of jobs that nobody waits for are kept. */
  #asking = 0;
  readonly #results = new Map<string, string>();
  #version: number | undefined;

  private constructor(bus: Bus) {
    this.#bus = bus;
    bus.onSignal((signal) => this.#onSignal(signal));
    void bus.ended.then(({ message }) => {
      for (const { reject } of this.#jobs.values()) reject(new DBusLost(message));
    });
  }

  /**
   * The system bus (DBUS_SYSTEM_BUS_ADDRESS, as in "unix:path=/run/dbus/system_bus_socket"), else systemd's own socket. With
   * `userBus` the user's manager.
   */
  static async connect(address?: string): Promise<SystemdManager> {
    const { path, isPrivate } = await socketOf(address);
    const bus = await Bus.connect(path, isPrivate).catch((error: NodeJS.ErrnoException) => {
      // A socket that is there and answers nobody may do so again.
      const Kind = error.code === "ENOENT" ? DBusError : DBusLost;
      throw new Kind(`cannot reach systemd at ${path}: ${error.message}; is it this machine's init?`, { cause: error });
    });
    const manager = new SystemdManager(bus);
    try {
      await manager.#listen(isPrivate);
    } catch (error) {
      bus.close();
      throw error;
    }
    return manager;
  }

  async #listen(isPrivate: boolean): Promise<void> {
    if (!isPrivate) {
      await this.#bus.match(
        `type='signal',sender='${SERVICE}',interface='${MANAGER}',member='JobRemoved',path='${OBJECT}'`,
      );
      await this.#bus.match(
        `type='signal',sender='${BUS}',interface='${BUS}',member='NameOwnerChanged',arg0='${SERVICE}'`,
      );
    }
    await this.#call("Subscribe").catch((error: unknown) => {
      if (!(error instanceof DBusCallError) || !error.errorName.endsWith(".AlreadySubscribed")) throw error;
    });
  }

  /** Settles with the reason when this manager can be asked nothing more: systemd or the bus has gone, or was started anew. */
  get ended(): Promise<Error> {
    return this.#bus.ended;
  }

  /** The major version: "252" of "252.39-1~deb12u1". */
  async version(): Promise<number> {
    return (this.#version ??= await this.#askVersion());
  }

  async #askVersion(): Promise<number> {
    const [variant] = await this.#bus.call({
      destination: SERVICE,
      path: OBJECT,
      interface: PROPERTIES,
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

  /** As in "active", "inactive", "failed"; undefined: there is no such unit. */
  async state(name: string): Promise<string | undefined> {
    try {
      const [path] = await this.#call("GetUnit", "s", [name]);
      const [variant] = await this.#bus.call({
        destination: SERVICE,
        path: textOf(path),
        interface: PROPERTIES,
        member: "Get",
        signature: "ss",
        body: [UNIT, "ActiveState"],
      });
      return textOf((variant as Variant | undefined)?.value);
    } catch (error) {
      if (error instanceof DBusCallError && /\.(NoSuchUnit|UnknownObject)$/.test(error.errorName)) return undefined;
      throw error;
    }
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
    this.#asking++;
    let job: string;
    let early: string | undefined;
    try {
      const [path] = await this.#call(member, signature, body);
      job = textOf(path);
      early = this.#results.get(job);
    } finally {
      if (--this.#asking === 0) this.#results.clear();
    }
    return early ?? (await this.#jobEnd(job, `${member} ${textOf(body[0])}`));
  }

  async #jobEnd(job: string, what: string): Promise<string> {
    // The reply and the end may have come together.
    if (this.#bus.failure !== undefined) throw new DBusLost(`${what}: ${this.#bus.failure.message}`);
    const end = Promise.withResolvers<string>();
    const timer = setTimeout(() => end.reject(new DBusError(`${what}: not done within ${JOB_MS} ms`)), JOB_MS);
    this.#jobs.set(job, end);
    try {
      return await end.promise;
    } finally {
      clearTimeout(timer);
      this.#jobs.delete(job);
    }
  }

  /** JobRemoved(u id, o job, s unit, s result); NameOwnerChanged(s name, s old, s new) when systemd leaves the bus or comes back. */
  #onSignal({ member, body }: DBusMessage): void {
    if (member === "NameOwnerChanged" && body[0] === SERVICE)
      this.#bus.close(new DBusLost("systemd was started anew, or ended"));
    if (member !== "JobRemoved") return;
    const [, job, , result] = body.map(textOf);
    if (job === undefined || result === undefined) return;
    const waiting = this.#jobs.get(job);
    if (waiting !== undefined) waiting.resolve(result);
    else if (this.#asking > 0) this.#results.set(job, result);
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
