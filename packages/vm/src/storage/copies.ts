/**
 * Volumes that a guest has as copies: where nothing of the node is shared, and those that the kubelet changes under a running container
 * (ConfigMaps, Secrets, projected ones), whose changes inotify(7) tells of in the guest only where they are made in it.
 *
 * A directory is changed as the kubelet changes it: what is new is written beside what is there, links are replaced by rename(2), and what is
 * gone goes last; so a volume whose "..data" link is exchanged is exchanged at once in the guest too. A file is changed in place.
 */
import { type FSWatcher, watch } from "node:fs";
import { readFile, rename, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { Hand, Order } from "@berth/kernel";
import type { PodMachine } from "../sandbox/machine.ts";
import { changesOf, readFileOf, readTree, type Tree, type TreeEntry } from "./tree.ts";

const COPIES = "/run/berth/f";
/** After the first change, for those that come with it. */
const SETTLE_MS = 50;

type Machine = Pick<PodMachine, "directory" | "guest">;
export type Say = (message: string) => void;

/** What a later berthd must know, in copies.json of the machine's directory. */
interface CopyRecord {
  /** The container's. */
  readonly user: string;
  readonly source: string;
  /** In the guest: a directory with the copy, or for a file a directory with "file". */
  readonly at: string;
  readonly kind: "file" | "directory";
  /** What the copy holds. */
  readonly holds: readonly (readonly [path: string, kind: TreeEntry["kind"]])[];
}

class Copy {
  readonly #record: Omit<CopyRecord, "holds">;
  readonly #hand: Hand;
  readonly #say: Say;
  readonly #save: () => Promise<void>;
  #tree: Tree;
  #watcher: FSWatcher | undefined;
  #timer: NodeJS.Timeout | undefined;
  #turn: Promise<void> = Promise.resolve();

  constructor({ holds, ...record }: CopyRecord, hand: Hand, say: Say, save: () => Promise<void>) {
    this.#record = record;
    this.#hand = hand;
    this.#say = say;
    this.#save = save;
    // All of it is another's when it is looked at again.
    this.#tree = new Map(holds.map(([path, kind]) => [path, { ...UNKNOWN, kind }]));
  }

  get record(): CopyRecord {
    return { ...this.#record, holds: [...this.#tree].map(([path, { kind }]) => [path, kind]) };
  }

  /** Watched before it is read, so that nothing is missed. */
  async begin(): Promise<void> {
    this.#watch();
    const first = this.#update();
    this.#turn = first.catch(() => {});
    await first;
  }

  close(): void {
    clearTimeout(this.#timer);
    this.#watcher?.close();
    this.#watcher = undefined;
  }

  #watch(): void {
    const { source, kind } = this.#record;
    this.#watcher = watch(source, { recursive: kind === "directory" }, () => {
      this.#timer ??= setTimeout(() => {
        this.#timer = undefined;
        void this.#soon();
      }, SETTLE_MS);
    });
    // A source that is removed has no more changes.
    this.#watcher.on("error", () => this.close());
  }

  async #soon(): Promise<void> {
    const turn = this.#turn.then(() => this.#update());
    this.#turn = turn.catch((error: unknown) => {
      this.#say(`${this.#record.source}: its change was not taken into the machine: ${(error as Error).message}`);
    });
    await this.#turn;
  }

  async #update(): Promise<void> {
    if (this.#record.kind === "file") await this.#updateFile();
    else await this.#updateDirectory();
    await this.#save();
  }

  async #updateFile(): Promise<void> {
    const { source, at } = this.#record;
    const tree = await readTree(source);
    const entry = tree.get(".");
    if (!entry) return;
    const first = this.#tree.size === 0;
    const data = (await readFileOf(source)) ?? Buffer.alloc(0);
    if (first) {
      await this.#hand.run({ orders: [directoryOrder(at)] });
      const writer = await this.#hand.tree(at);
      await writer.file(Buffer.from("file"), entry.mode, BigInt(data.length), entry);
      if (data.length > 0) await writer.data(data);
      await writer.end(false);
    } else if (changesOf(this.#tree, tree).put.length > 0) {
      await this.#hand.run({ orders: [{ order: "fill_file", args: { path: `${at}/file`, data } }] });
    }
    this.#tree = tree;
  }

  async #updateDirectory(): Promise<void> {
    const { source, at } = this.#record;
    const now = await readTree(source);
    if (now.size === 0) return;
    const { put, gone } = changesOf(this.#tree, now);
    const aside: Order[] = [];
    await this.#hand.run({ orders: [directoryOrder(at)] });
    const writer = await this.#hand.tree(at);
    let number = 0;
    for (const path of put) {
      const entry = now.get(path);
      if (!entry) continue;
      // What is there already is exchanged when all that is new has been written.
      const exchanged = entry.kind !== "directory" && this.#tree.has(path);
      const name = exchanged ? `${path.slice(0, path.lastIndexOf("/") + 1)}..berth-${number++}` : path;
      if (exchanged) aside.push({ order: "rename", args: { from: join(at, name), to: join(at, path) } });
      if (entry.kind === "directory") await writer.directory(Buffer.from(name), entry.mode, entry);
      else if (entry.kind === "symlink") await writer.symlink(Buffer.from(name), Buffer.from(entry.target), entry);
      else {
        const data = (await readFileOf(join(source, path))) ?? Buffer.alloc(0);
        await writer.file(Buffer.from(name), entry.mode, BigInt(data.length), entry);
        if (data.length > 0) await writer.data(data);
      }
    }
    await writer.end(false);
    const removals = gone
      .filter((path) => !now.has(path))
      .map((path): Order => ({ order: "remove_tree", args: { path: join(at, path) } }));
    if (aside.length + removals.length > 0) await this.#hand.run({ orders: [...aside, ...removals] });
    this.#tree = now;
  }
}

const UNKNOWN = { mode: 0, uid: 0, gid: 0, mtime: 0n, size: 0, inode: 0n, target: "" } as const;

const directoryOrder = (path: string): Order => ({
  order: "mkdir",
  args: { path, mode: 0o755, existOk: 1, parents: 1 },
});

/** By the machine's directory. */
const running = new Map<string, Copy[]>();

const fileOf = ({ directory }: Pick<Machine, "directory">): string => `${directory}/copies.json`;

const saving = new Map<string, Promise<void>>();

/** One after the other. */
async function save(machine: Machine): Promise<void> {
  const before = saving.get(machine.directory) ?? Promise.resolve();
  const saved = before.catch(() => {}).then(() => write(machine));
  saving.set(machine.directory, saved);
  try {
    await saved;
  } finally {
    if (saving.get(machine.directory) === saved) saving.delete(machine.directory);
  }
}

async function write(machine: Machine): Promise<void> {
  const records = (running.get(machine.directory) ?? []).map(({ record }) => record);
  await writeFile(`${fileOf(machine)}.new`, JSON.stringify(records), { mode: 0o600 });
  await rename(`${fileOf(machine)}.new`, fileOf(machine));
}

/** Copies a file or directory, and keeps the copy as the source is. Answers where it is in the guest. Rejects with VmError Unsupported for what is too much. */
export async function copyVolume(
  machine: Machine,
  user: string,
  { name, source, kind }: { readonly name: string; readonly source: string; readonly kind: CopyRecord["kind"] },
  say: Say,
): Promise<string> {
  const at = `${COPIES}/${user}/${name}`;
  await follow(machine, { user, source, at, kind, holds: [] }, say);
  return kind === "file" ? `${at}/file` : at;
}

async function follow(machine: Machine, record: CopyRecord, say: Say): Promise<void> {
  const copy = new Copy(record, machine.guest.hand, say, () => save(machine));
  const all = running.get(machine.directory) ?? [];
  running.set(machine.directory, all);
  all.push(copy);
  await copy.begin();
}

/** Of an earlier berthd: every copy is as its source is when this returns, and stays so. */
export async function resumeCopies(machine: Machine, say: Say): Promise<void> {
  let records: CopyRecord[];
  try {
    records = JSON.parse(await readFile(fileOf(machine), "utf8")) as CopyRecord[];
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return;
    throw error;
  }
  for (const record of records)
    await follow(machine, record, say).catch((error: unknown) => say(`${record.source}: ${(error as Error).message}`));
}

/** Ends following, as the machine is closed. */
export function closeCopies({ directory }: Pick<Machine, "directory">): void {
  for (const copy of running.get(directory) ?? []) copy.close();
  running.delete(directory);
}

/** A container's: no more is followed, and the copies go. Idempotent. */
export async function releaseCopies(
  machine: Machine,
  user: string,
  within: { readonly timeoutMs: number },
): Promise<void> {
  const all = running.get(machine.directory) ?? [];
  const own = all.filter(({ record }) => record.user === user);
  if (own.length === 0) return;
  for (const copy of own) copy.close();
  running.set(
    machine.directory,
    all.filter((copy) => !own.includes(copy)),
  );
  await save(machine);
  await machine.guest.hand.run({ orders: [{ order: "remove_tree", args: { path: `${COPIES}/${user}` } }] }, within);
}
