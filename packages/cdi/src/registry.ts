/** All CDI specifications of a node, kept in step with their directories, and the injection of their devices. */
import { resolve } from "node:path";
import type { oci } from "@berth/spec";
import { hostDevice, type HostDevices } from "./device-node.ts";
import { applyEdits, type SourcedEdits } from "./edits.ts";
import { UnresolvedError } from "./errors.ts";
import { DEFAULT_SPEC_DIRS, dirStamp, fileStamp, type LoadedFile, scanDir, type SpecValidator } from "./files.ts";
import { EMPTY, type Snapshot, snapshotOf } from "./snapshot.ts";
import type { CdiSpec, LoadedDevice, LoadedSpec } from "./types.ts";
import { type DirWatch, watchDirs } from "./watch.ts";
import { removeSpec, writeSpec } from "./write.ts";

export interface RegistryOptions {
  /** From the lowest priority to the highest. Default: /etc/cdi, /var/run/cdi. */
  readonly dirs?: readonly string[] | undefined;
  /** Keep in step in the background, and call this after each change. Without it: at each query that injects or writes. */
  readonly onChange?: ((registry: Registry) => void) | undefined;
  readonly validator?: SpecValidator | undefined;
  readonly hostDevices?: HostDevices | undefined;
}

/** ms. A writer's several steps are read once. */
const SETTLE_MS = 20;
/** Names in the explanation of what could not be resolved. */
const MAX_REASONS = 3;

export class Registry {
  readonly dirs: readonly string[];
  readonly #options: RegistryOptions;
  #snapshot: Snapshot = EMPTY;
  #scanning: Promise<void> = Promise.resolve();
  #watch: DirWatch | undefined;
  #settle: NodeJS.Timeout | undefined;
  #closed = false;

  /** Reads the directories. Never fails for what is in them: see `errors`. */
  static async open(options: RegistryOptions = {}): Promise<Registry> {
    const registry = new Registry(options);
    if (options.onChange) registry.#watch = watchDirs(registry.dirs, () => registry.#changed());
    await registry.refresh();
    return registry;
  }

  private constructor(options: RegistryOptions) {
    this.dirs = (options.dirs?.length ? options.dirs : DEFAULT_SPEC_DIRS).map((dir) => resolve(dir));
    this.#options = options;
  }

  /** Reads what has changed since the last time. Calls do not overlap. */
  refresh(): Promise<void> {
    const next = this.#scanning.then(() => this.#scan());
    this.#scanning = next;
    return next;
  }

  vendors(): string[] {
    return [...this.#snapshot.specs.keys()].sort();
  }

  classes(): string[] {
    return [...new Set([...this.#snapshot.specs.values()].flat().map((spec) => spec.class))].sort();
  }

  specsOf(vendor: string): readonly LoadedSpec[] {
    return this.#snapshot.specs.get(vendor) ?? [];
  }

  /** Qualified names. */
  devices(): string[] {
    return [...this.#snapshot.devices.keys()].sort();
  }

  device(qualifiedName: string): LoadedDevice | undefined {
    return this.#snapshot.devices.get(qualifiedName);
  }

  /** What is wrong, by file. A file with errors gives no devices; one in conflict does not give those in conflict. */
  get errors(): ReadonlyMap<string, readonly Error[]> {
    return this.#snapshot.errors;
  }

  /** Directories that cannot be read or watched, which is no error of a specification. */
  get dirErrors(): ReadonlyMap<string, Error> {
    const unreadable = this.#snapshot.dirs.flatMap(({ dir, error }) => (error ? [[dir, error] as const] : []));
    return new Map([...unreadable, ...(this.#watch?.errors ?? [])]);
  }

  /**
   * `spec` with the devices in it. What was written just before is seen: the directories are looked at, and so are the
   * files of the devices asked for. Throws UnresolvedError naming all devices that are not there, and CdiError.
   */
  async inject(spec: oci.Spec, names: readonly string[]): Promise<oci.Spec> {
    if (names.length === 0) return spec;
    const devices = await this.#resolve(names);
    const sources: SourcedEdits[] = [];
    const used = new Set<LoadedSpec>();
    for (const { device, from, qualifiedName } of devices) {
      if (!used.has(from)) sources.push({ edits: from.spec.containerEdits ?? {}, file: from.path });
      used.add(from);
      sources.push({ edits: device.containerEdits, file: from.path, device: qualifiedName });
    }
    return await applyEdits(spec, sources, this.#options.hostDevices ?? hostDevice);
  }

  /** Writes a specification into the directory of the highest priority; `name` without extension becomes a .yaml file. */
  async write(spec: CdiSpec, name: string): Promise<string> {
    const path = await writeSpec(this.#writable(), name, spec, this.#options.validator);
    await this.refresh();
    return path;
  }

  /** Removes what `write` wrote; one that is not there is removed. */
  async remove(name: string): Promise<void> {
    await removeSpec(this.#writable(), name);
    await this.refresh();
  }

  close(): void {
    this.#closed = true;
    clearTimeout(this.#settle);
    this.#watch?.close();
  }

  #writable(): string {
    return this.dirs.at(-1) ?? "";
  }

  async #resolve(names: readonly string[]): Promise<LoadedDevice[]> {
    if (!(await this.#isCurrent(names))) await this.refresh();
    const unresolved = [...new Set(names.filter((name) => !this.#snapshot.devices.has(name)))];
    if (unresolved.length > 0) throw new UnresolvedError(unresolved, this.#reasons(unresolved));
    return names.flatMap((name) => this.#snapshot.devices.get(name) ?? []);
  }

  /** No file has come or gone, and those of `names` are as they were read. */
  async #isCurrent(names: readonly string[]): Promise<boolean> {
    const { dirs, devices } = this.#snapshot;
    if (names.some((name) => !devices.has(name))) return false;
    const wanted = new Set(names.flatMap((name) => devices.get(name)?.from.path ?? []));
    const files = dirs.flatMap((dir) => dir.files.filter(({ path }) => wanted.has(path)));
    const same = await Promise.all([
      ...dirs.map(async ({ dir, stamp }) => (await dirStamp(dir)) === stamp),
      ...files.map(async ({ path, stamp }) => (await fileStamp(path)) === stamp),
    ]);
    return same.every(Boolean);
  }

  /** Errors of files that may have been meant to have these devices. */
  #reasons(names: readonly string[]): string[] {
    const conflicts = (message: string): boolean => names.some((name) => message.includes(JSON.stringify(name)));
    const messages = [...this.#snapshot.errors.values()].flat().map((error) => error.message);
    const all = [...new Set([...messages.filter(conflicts), ...messages])];
    const more = all.length > MAX_REASONS ? [`and ${all.length - MAX_REASONS} more errors`] : [];
    return all.length > 0 ? [...all.slice(0, MAX_REASONS), ...more] : [`no such device in ${this.dirs.join(", ")}`];
  }

  async #scan(): Promise<void> {
    // Watches first, contents after: a change between the two is then seen as an event.
    await this.#watch?.rearm();
    const files = this.#snapshot.dirs.flatMap((dir): readonly LoadedFile[] => dir.files);
    const known = new Map(files.map((file) => [file.path, file]));
    const { validator } = this.#options;
    const dirs = await Promise.all(this.dirs.map((dir, priority) => scanDir(dir, priority, known, validator)));
    this.#snapshot = snapshotOf(dirs);
  }

  #changed(): void {
    if (this.#closed) return;
    this.#settle ??= setTimeout(() => {
      this.#settle = undefined;
      void this.refresh().then(() => {
        if (!this.#closed) this.#options.onChange?.(this);
      });
    }, SETTLE_MS).unref();
  }
}
