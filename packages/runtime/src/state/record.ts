/**
 * What is kept of a container between two commands: `<root>/<id>/state.json`, with runc's names for what runc's readers look at, and
 * under `berth` what only berth needs. Beside it is what the commands read that need no decision (flat.ts).
 */
import { mkdirSync, readdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { SystemdPlace } from "@berth/kernel";
import type { oci } from "@berth/spec";
import { CommandError } from "../command/failure.ts";
import { flatRecord } from "./flat.ts";

export const STATE_FILE = "state.json";
const FLAT_FILE = "state.flat";
export const FIFO = "exec.fifo";

export interface ContainerRecord {
  readonly id: string;
  readonly init_process_pid: number;
  /** Field 22 of /proc/PID/stat; with the pid an identity that is never reused. */
  readonly init_process_start: number;
  /** RFC 3339 with nanoseconds, UTC. */
  readonly created: string;
  /** The subset of libcontainer's configuration that tools read from state.json. */
  readonly config: {
    readonly rootfs: string;
    readonly version: string;
    readonly labels: readonly string[];
    readonly hostname?: string | undefined;
    readonly namespaces: readonly { readonly type: string; readonly path: string }[];
    readonly cgroups: { readonly path: string; readonly systemd: boolean };
  };
  readonly rootless: boolean;
  /** By v1 controller; "" for cgroup v2. */
  readonly cgroup_paths: Readonly<Record<string, string>>;
  /** By CLONE_NEW*, as libcontainer writes them: "NEWNS": "/proc/PID/ns/mnt". */
  readonly namespace_paths: Readonly<Record<string, string>>;
  /** What descriptors 0-2 were, for a restore. */
  readonly external_descriptors: readonly string[];
  readonly intel_rdt_path: string;
  readonly berth: {
    readonly bundle: string;
    /** From the hierarchies' roots. */
    readonly cgroup: string;
    /** Of systemd's, whose cgroup that is. */
    readonly unit?: SystemdPlace | undefined;
    readonly spec: oci.Spec;
    readonly noNewKeyring: boolean;
  };
}

const ID = /^[\w+.-]+$/;

/** Throws CommandError. */
export function checkId(id: string): string {
  if (id === "") throw new CommandError("container id cannot be empty");
  if (!ID.test(id) || id === "." || id === "..") throw new CommandError("invalid container ID format");
  return id;
}

export class StateDirectory {
  readonly root: string;
  constructor(root: string) {
    this.root = root;
  }

  path(id: string): string {
    return join(this.root, checkId(id));
  }

  fifo(id: string): string {
    return join(this.path(id), FIFO);
  }

  /** Throws CommandError where there is no such container. */
  read(id: string): ContainerRecord {
    const file = join(this.path(id), STATE_FILE);
    let text: string;
    try {
      text = readFileSync(file, "utf8");
    } catch (error) {
      if (isMissing(error)) throw new CommandError("container does not exist", { cause: error });
      throw error;
    }
    const record = JSON.parse(text, revive as (key: string, value: unknown) => unknown) as ContainerRecord;
    if ((record as Partial<ContainerRecord>).berth === undefined)
      throw new CommandError(`${file} is another runtime's: use that runtime for container ${id}`);
    return record;
  }

  /** Makes the directory of a new container. Throws CommandError where the name is taken. */
  make(id: string): string {
    const path = this.path(id);
    mkdirSync(this.root, { recursive: true, mode: 0o711 });
    try {
      mkdirSync(path, { mode: 0o711 });
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
      throw new CommandError("container with given ID already exists", { cause: error });
    }
    return path;
  }

  write(record: ContainerRecord): void {
    const directory = this.path(record.id);
    const flat = flatRecord(record);
    if (flat === undefined) rmSync(join(directory, FLAT_FILE), { force: true });
    else replaceFile(join(directory, FLAT_FILE), flat);
    // With this one the container is there.
    replaceFile(join(directory, STATE_FILE), JSON.stringify(record, replace));
  }

  remove(id: string): void {
    rmSync(this.path(id), { recursive: true, force: true });
  }

  /** Names of containers, whoever made them; none where the root is missing. */
  ids(): string[] {
    try {
      return readdirSync(this.root, { withFileTypes: true })
        .filter((entry) => entry.isDirectory() && !entry.name.startsWith("."))
        .map(({ name }) => name)
        .sort();
    } catch (error) {
      if (isMissing(error)) return [];
      throw error;
    }
  }

  /** Numeric user id of whoever made the container. */
  owner(id: string): number {
    return statSync(this.path(id)).uid;
  }
}

/** No reader ever sees half of it. */
function replaceFile(file: string, content: string): void {
  const temporary = `${file}.${process.pid}`;
  writeFileSync(temporary, content, { mode: 0o600 });
  renameSync(temporary, file);
}

export function isMissing(error: unknown): boolean {
  const { code } = error as NodeJS.ErrnoException;
  return code === "ENOENT" || code === "ENOTDIR";
}

function revive(_key: string, value: unknown, context: { readonly source?: string }): unknown {
  if (typeof value !== "number" || Number.isSafeInteger(value) || context.source === undefined) return value;
  return /^-?\d+$/.test(context.source) ? BigInt(context.source) : value;
}

function replace(_key: string, value: unknown): unknown {
  return typeof value === "bigint"
    ? (JSON as unknown as { rawJSON(text: string): unknown }).rawJSON(String(value))
    : value;
}
