/** The log as containerd, CRI-O and podman read it: logrus's text and JSON, to a file or to standard error. */
import { fstatSync, openSync, writeSync } from "node:fs";

export type Level = "debug" | "info" | "warning" | "error";

const COLOURS: Readonly<Record<Level, string>> = { debug: "37", info: "36", warning: "33", error: "31" };
const STDERR = 2;
/** null(4): 1:3. */
const NULL_DEVICE = 0x103;

export class Log {
  readonly #fd: number | undefined;
  readonly #format: "text" | "json";
  readonly #debug: boolean;
  readonly #began = Date.now();

  /** `file` undefined: standard error. Throws where it cannot be opened. */
  constructor(file: string | undefined, format: "text" | "json", debug: boolean) {
    this.#fd = file === undefined ? undefined : openSync(file, "a", 0o644);
    this.#format = format;
    this.#debug = debug;
  }

  get toStderr(): boolean {
    return this.#fd === undefined;
  }

  get isDebug(): boolean {
    return this.#debug;
  }

  debug(message: string): void {
    if (this.#debug) this.#write("debug", message);
  }

  warning(message: string): void {
    this.#write("warning", message);
  }

  error(message: string): void {
    this.#write("error", message);
  }

  #write(level: Level, message: string): void {
    const line = `${this.#line(level, message)}\n`;
    writeAll(this.#fd ?? STDERR, line);
  }

  #line(level: Level, message: string): string {
    const time = new Date().toISOString().replace(/\.\d+Z$/, "Z");
    if (this.#format === "json") return JSON.stringify({ level, msg: message, time });
    if (this.#fd === undefined && isTerminal(STDERR)) {
      const seconds = String(Math.floor((Date.now() - this.#began) / 1000)).padStart(4, "0");
      return `\u001b[${COLOURS[level]}m${level.slice(0, 4).toUpperCase()}\u001b[0m[${seconds}] ${message}`;
    }
    return `time=${JSON.stringify(time)} level=${level} msg=${quoted(message)}`;
  }
}

/** node:tty brings streams and sockets with it: six milliseconds that only those on a character device are charged. */
function isTerminal(fd: number): boolean {
  const info = fstatSync(fd);
  if (!info.isCharacterDevice() || info.rdev === NULL_DEVICE) return false;
  return process.getBuiltinModule("node:tty").isatty(fd);
}

function quoted(text: string): string {
  return /^[\w./@^+-]+$/.test(text) ? text : JSON.stringify(text);
}

/** Standard output and error may be pipes that take only a part at a time. */
export function writeAll(fd: number, text: string): void {
  const bytes = Buffer.from(text);
  for (let sent = 0; sent < bytes.length;) {
    try {
      sent += writeSync(fd, bytes, sent);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "EAGAIN") throw error;
    }
  }
}
