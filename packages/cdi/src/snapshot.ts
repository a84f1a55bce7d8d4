/** What the directories held at one moment: specifications by vendor, devices by name, conflicts settled, errors by file. */
import { CdiError } from "./errors.ts";
import type { LoadedFile, ScannedDir } from "./files.ts";
import { qualifiedName } from "./names.ts";
import type { LoadedDevice, LoadedSpec } from "./types.ts";

export interface Snapshot {
  readonly dirs: readonly ScannedDir[];
  readonly specs: ReadonlyMap<string, readonly LoadedSpec[]>;
  readonly devices: ReadonlyMap<string, LoadedDevice>;
  /** By file. */
  readonly errors: ReadonlyMap<string, readonly Error[]>;
}

export const EMPTY: Snapshot = { dirs: [], specs: new Map(), devices: new Map(), errors: new Map() };

/** `dirs` from the lowest priority to the highest. */
export function snapshotOf(dirs: readonly ScannedDir[]): Snapshot {
  const specs = new Map<string, LoadedSpec[]>();
  const errors = new Map<string, Error[]>();
  const devices = new Devices((path, error) => append(errors, path, error));
  for (const file of dirs.flatMap((dir): readonly LoadedFile[] => dir.files)) {
    if (file.error) append(errors, file.path, file.error);
    if (!file.loaded) continue;
    append(specs, file.loaded.vendor, file.loaded);
    devices.add(file.loaded);
  }
  return { dirs, specs, devices: devices.settled(), errors };
}

/** One device of a name: the one of the highest priority. Two of that priority are a conflict, and neither is there. */
class Devices {
  readonly #found = new Map<string, LoadedDevice>();
  readonly #conflicts = new Set<string>();
  readonly #report: (path: string, error: Error) => void;

  constructor(report: (path: string, error: Error) => void) {
    this.#report = report;
  }

  add(from: LoadedSpec): void {
    for (const device of from.spec.devices) {
      const name = qualifiedName(from.vendor, from.class, device.name);
      const other = this.#found.get(name)?.from;
      if (other === undefined || from.priority > other.priority) {
        this.#found.set(name, { qualifiedName: name, device, from });
        this.#conflicts.delete(name);
      } else if (from.priority === other.priority) {
        this.#conflicts.add(name);
        const error = new CdiError(
          {},
          `conflicting device ${JSON.stringify(name)} (specs ${JSON.stringify(from.path)}, ${JSON.stringify(other.path)})`,
        );
        this.#report(from.path, error);
        this.#report(other.path, error);
      }
    }
  }

  settled(): Map<string, LoadedDevice> {
    return new Map([...this.#found].filter(([name]) => !this.#conflicts.has(name)));
  }
}

function append<T>(lists: Map<string, T[]>, key: string, item: T): void {
  const list = lists.get(key);
  if (list) list.push(item);
  else lists.set(key, [item]);
}
