/** The lines of a log that another process writes, as they come. */
import { type FSWatcher, watch } from "node:fs";
import { type FileHandle, open } from "node:fs/promises";
import { basename, dirname } from "node:path";

const CHUNK = 65_536;

export class LogTail {
  readonly #path: string;
  readonly #onLine: (line: string) => void;
  readonly #watcher: FSWatcher;
  #file: FileHandle | undefined;
  #rest = "";
  #closed = false;
  #work: Promise<void> = Promise.resolve();

  private constructor(path: string, onLine: (line: string) => void) {
    this.#path = path;
    this.#onLine = onLine;
    this.#watcher = watch(dirname(path), { persistent: false }, (_, name) => {
      if (name === null || name === basename(path)) this.#look();
    });
    this.#watcher.on("error", () => this.close());
  }

  /** From its beginning, now or when there is one. Its directory has to be there. */
  static async open(path: string, onLine: (line: string) => void): Promise<LogTail> {
    const tail = new LogTail(path, onLine);
    tail.#look();
    await tail.#work;
    return tail;
  }

  close(): void {
    this.#closed = true;
    this.#watcher.close();
    this.#work = this.#work.then(() => this.#file?.close());
  }

  #look(): void {
    this.#work = this.#work
      .then(() => this.#read())
      .catch((error: unknown) => {
        this.#onLine(`${this.#path} is not followed any more: ${(error as Error).message}`);
        this.close();
      });
  }

  async #read(): Promise<void> {
    if (this.#closed) return;
    try {
      this.#file ??= await open(this.#path);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "ENOENT") return;
      throw error;
    }
    const buffer = Buffer.alloc(CHUNK);
    for (;;) {
      const { bytesRead } = await this.#file.read(buffer, 0, CHUNK, null);
      if (bytesRead === 0) return;
      const lines = (this.#rest + buffer.toString("utf8", 0, bytesRead)).split("\n");
      this.#rest = lines.pop() ?? "";
      for (const line of lines) this.#onLine(line);
    }
  }
}
