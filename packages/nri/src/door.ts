/** Where plugins come from: the socket that they connect to, and the directory of those that are started. Loads nothing of what serves them. */
import { chmod, mkdir, readdir, readFile, rm, stat } from "node:fs/promises";
import { connect, createServer, type Server, type Socket } from "node:net";
import { dirname, join } from "node:path";
import { wrongIndex } from "./names.ts";

export const DEFAULT_SOCKET = "/var/run/nri/nri.sock";
export const DEFAULT_PLUGIN_PATH = "/opt/nri/plugins";
export const DEFAULT_PLUGIN_CONFIG_PATH = "/etc/nri/conf.d";

/** A program of the plugins' directory. */
export interface Installed {
  readonly path: string;
  /** "10" and "logger" of 10-logger. */
  readonly index: string;
  readonly base: string;
  /** As its file in the configurations' directory has it; "": there is none. */
  readonly config: string;
}

export class Door implements AsyncDisposable {
  readonly #server: Server;
  readonly #path: string;

  private constructor(server: Server, path: string) {
    this.#server = server;
    this.#path = path;
  }

  /** Listens for root alone. Rejects where another runtime answers at `path`: its plugins are its own. */
  static async open(path: string, onConnection: (connection: Socket) => void): Promise<Door> {
    await mkdir(dirname(path), { recursive: true, mode: 0o700 });
    if (await answers(path)) throw new Error(`another runtime serves NRI at ${path}`);
    await rm(path, { force: true });
    const server = createServer(onConnection);
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    // From its first moment on it is root's alone.
    const umask = process.umask(0o177);
    server.once("error", reject).listen({ path }, resolve);
    process.umask(umask);
    await promise;
    await chmod(path, 0o600);
    return new Door(server, path);
  }

  /** Connections that are there stay. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.close();
    await rm(this.#path, { force: true });
  }
}

async function answers(path: string): Promise<boolean> {
  const { promise, resolve, reject } = Promise.withResolvers<boolean>();
  const probe = connect(path, () => resolve(true)).on("error", (error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT" || error.code === "ECONNREFUSED") resolve(false);
    else reject(error);
  });
  try {
    return await promise;
  } finally {
    probe.destroy();
  }
}

/** Every program in `directory`, in the order of their names. Throws for one whose name is not NN-name. */
export async function installedPlugins(directory: string, configs: string): Promise<Installed[]> {
  const names = await readdir(directory).catch(noneThere);
  const found: Installed[] = [];
  for (const name of names.sort()) {
    const path = join(directory, name);
    const file = await stat(path);
    if (!file.isFile() || (file.mode & 0o111) === 0) continue;
    const { index = name, base = "" } = /^(?<index>[^-]*)-(?<base>.*)$/.exec(name)?.groups ?? {};
    const wrong = base === "" ? `invalid plugin name "${name}", NN-name expected` : wrongIndex(index);
    if (wrong !== undefined) throw new Error(`${path}: ${wrong}`);
    found.push({ path, index, base, config: await configOf(configs, [`${name}.conf`, `${base}.conf`]) });
  }
  return found;
}

async function configOf(directory: string, names: readonly string[]): Promise<string> {
  for (const name of names) {
    const text = await readFile(join(directory, name), "utf8").catch((error: NodeJS.ErrnoException) => {
      if (error.code === "ENOENT") return undefined;
      throw error;
    });
    if (text !== undefined) return text;
  }
  return "";
}

function noneThere(error: NodeJS.ErrnoException): string[] {
  if (error.code === "ENOENT") return [];
  throw error;
}
