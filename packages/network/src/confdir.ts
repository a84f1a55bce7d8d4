/** The directory of network configurations: what it holds now, and a watch that outlives the directory itself. */
import { type FSWatcher, watch } from "node:fs";
import { readFile, readdir, stat } from "node:fs/promises";
import { basename, dirname, extname, join, resolve } from "node:path";
import { ConfError, type NetworkConf, parseConf, parseConfWithFolder, parsePluginFile, wantsFolder } from "./conf.ts";
import { type Log, silent } from "./log.ts";

const EXTENSIONS = new Set([".conflist", ".conf", ".json"]);
/** Editors and installers write in several steps: changes this close together are read once. */
const SETTLE_MS = 20;
/** How often the directory is read when the machine has no inotify watch to spare. */
const POLL_MS = 5_000;

export interface Loaded {
  /** In the order of their file names; at most as many as asked for. */
  readonly networks: readonly NetworkConf[];
  /** Files that were passed over, and why. */
  readonly problems: readonly ConfError[];
}

/**
 * Reads the valid configurations of `dir` in the order of their file names, at most `max` (0: all). A file that is not
 * valid, or that names a network again, is a problem and not an end. A missing directory holds none.
 */
export async function loadConfDir(dir: string, max = 1): Promise<Loaded> {
  const networks: NetworkConf[] = [];
  const problems: ConfError[] = [];
  for (const file of await listConfFiles(dir)) {
    if (max > 0 && networks.length >= max) break;
    try {
      const conf = await loadFile(file);
      const twin = networks.find((other) => other.name === conf.name);
      if (twin)
        throw new ConfError(file, "name", `${JSON.stringify(conf.name)} is already the network of ${twin.file}`);
      networks.push(conf);
    } catch (error) {
      problems.push(
        error instanceof ConfError ? error : new ConfError(file, "", (error as Error).message, { cause: error }),
      );
    }
  }
  return { networks, problems };
}

async function listConfFiles(dir: string): Promise<string[]> {
  try {
    const entries = await readdir(dir, { withFileTypes: true });
    return entries
      .filter((entry) => !entry.isDirectory() && EXTENSIONS.has(extname(entry.name)))
      .map((entry) => join(dir, entry.name))
      .sort();
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return [];
    throw error;
  }
}

async function loadFile(file: string): Promise<NetworkConf> {
  const text = await readFile(file, "utf8");
  const folder = wantsFolder(file, text);
  if (folder === undefined) return parseConf(file, text);
  const files = (await listConfFiles(join(dirname(file), folder))).filter((name) => name.endsWith(".conf"));
  const extra = await Promise.all(files.map(async (name) => parsePluginFile(name, await readFile(name, "utf8"))));
  return parseConfWithFolder(file, text, extra);
}

/**
 * Keeps `loaded` in step with the directory. The kernel's watch is on an inode, so one on the directory alone goes blind
 * when an installer removes and remakes it: its parent is watched too, and what is missing is waited for at its nearest
 * ancestor that exists.
 */
export class ConfDir {
  readonly #dir: string;
  readonly #max: number;
  readonly #log: Log;
  readonly #onChange: (loaded: Loaded) => void;
  #loaded: Loaded = { networks: [], problems: [] };
  #watchers: FSWatcher[] = [];
  #settle: NodeJS.Timeout | undefined;
  #poll: NodeJS.Timeout | undefined;
  #reading: Promise<void> = Promise.resolve();
  #closed = false;

  private constructor(dir: string, max: number, log: Log, onChange: (loaded: Loaded) => void) {
    this.#dir = resolve(dir);
    this.#max = max;
    this.#log = log;
    this.#onChange = onChange;
  }

  static async open(
    dir: string,
    options: { max?: number; log?: Log; onChange?: (loaded: Loaded) => void } = {},
  ): Promise<ConfDir> {
    const confDir = new ConfDir(dir, options.max ?? 1, options.log ?? silent, options.onChange ?? (() => {}));
    await confDir.reload();
    return confDir;
  }

  get loaded(): Loaded {
    return this.#loaded;
  }

  /** Reads the directory now; resolves when `loaded` shows it. */
  reload(): Promise<void> {
    const next = this.#reading.then(() => this.#read());
    this.#reading = next.catch(() => {});
    return next;
  }

  close(): void {
    this.#closed = true;
    this.#disarm();
    clearTimeout(this.#settle);
    clearTimeout(this.#poll);
  }

  async #read(): Promise<void> {
    if (this.#closed) return;
    // Watches first, contents after: a change between the two is then seen as an event.
    await this.#arm();
    const before = this.#loaded;
    this.#loaded = await loadConfDir(this.#dir, this.#max);
    if (JSON.stringify(describe(before)) === JSON.stringify(describe(this.#loaded))) return;
    for (const problem of this.#loaded.problems)
      this.#log.warn({ file: problem.file, field: problem.field }, problem.message);
    const networks = this.#loaded.networks.map((network) => `${network.name} (${network.file})`);
    this.#log.info(
      { dir: this.#dir, networks },
      networks.length > 0 ? "cni networks loaded" : "no cni network configured",
    );
    this.#onChange(this.#loaded);
  }

  async #arm(): Promise<void> {
    const chain: { path: string; child: string | undefined }[] = [];
    for (let path = this.#dir, child: string | undefined; ; child = basename(path), path = dirname(path)) {
      chain.push({ path, child });
      // Enough: the directory and its parent, or, where they are missing, the first ancestor that is there.
      if (chain.length >= 2 && (await isDirectory(path))) break;
      if (path === dirname(path)) break;
    }
    if (this.#closed) return;
    this.#disarm();
    try {
      for (const { path, child } of chain) this.#watch(path, child);
    } catch (error) {
      this.#log.warn(
        { dir: this.#dir, error },
        `cannot watch ${this.#dir} (${(error as Error).message}): reading it every ${POLL_MS / 1000} s; raise fs.inotify.max_user_watches`,
      );
      this.#poll ??= setTimeout(() => {
        this.#poll = undefined;
        this.#reloadInBackground();
      }, POLL_MS).unref();
    }
  }

  #watch(path: string, child: string | undefined): void {
    let watcher: FSWatcher;
    try {
      watcher = watch(path, { persistent: false });
    } catch (error) {
      if (["ENOENT", "ENOTDIR"].includes((error as NodeJS.ErrnoException).code ?? "")) return;
      throw error;
    }
    // An event without a name, or with the watched directory's own, is about that directory: it may be gone.
    watcher.on("change", (_type, name) => {
      if (child === undefined || name === null || name === child || name === basename(path)) this.#changed();
    });
    watcher.on("error", () => this.#changed());
    this.#watchers.push(watcher);
  }

  #changed(): void {
    if (this.#closed) return;
    this.#settle ??= setTimeout(() => {
      this.#settle = undefined;
      this.#reloadInBackground();
    }, SETTLE_MS).unref();
  }

  #reloadInBackground(): void {
    this.reload().catch((error: Error) =>
      this.#log.warn({ dir: this.#dir, error }, `cannot read ${this.#dir}: ${error.message}`),
    );
  }

  #disarm(): void {
    for (const watcher of this.#watchers) watcher.close();
    this.#watchers = [];
  }
}

function describe(loaded: Loaded): unknown {
  return [
    loaded.networks.map((network) => [network, network.plugins.map((plugin) => [...plugin.capabilities])]),
    loaded.problems.map((problem) => problem.message),
  ];
}

async function isDirectory(path: string): Promise<boolean> {
  try {
    return (await stat(path)).isDirectory();
  } catch (error) {
    if (["ENOENT", "ENOTDIR"].includes((error as NodeJS.ErrnoException).code ?? "")) return false;
    throw error;
  }
}
