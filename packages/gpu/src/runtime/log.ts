/** nvidia-container-runtime's log: the file of its configuration, and the one that --log names, in logrus's formats. */
import { appendFileSync, mkdirSync } from "node:fs";
import { dirname } from "node:path";
import type { RuntimeLog } from "./modify.ts";

const LEVELS = ["debug", "info", "warning", "error"] as const;
type Level = (typeof LEVELS)[number];

export interface LogFlags {
  readonly file: string | undefined;
  readonly format: string | undefined;
  readonly debug: boolean;
}

/** Flags of a low-level runtime's command line, wherever they are in it. */
export function logFlags(args: readonly string[]): LogFlags {
  const value = (name: string): string | undefined => {
    const at = args.findLastIndex((arg) => new RegExp(`^--?${name}(=|$)`).test(arg));
    const arg = args[at];
    return arg?.includes("=") ? arg.slice(arg.indexOf("=") + 1) : args[at + 1 || args.length];
  };
  return {
    file: value("log"),
    format: value("log-format"),
    debug: args.some((arg) => arg === "--debug" || arg === "-debug"),
  };
}

export class FileLog implements RuntimeLog {
  readonly #files: readonly string[];
  readonly #lowest: number;
  readonly #json: boolean;

  /** `file`, `level`: of the configuration. */
  constructor(file: string, level: string, flags: LogFlags) {
    this.#files = [file, flags.file ?? ""].filter((path) => path !== "" && path !== "/dev/null");
    const named = LEVELS.indexOf((level === "warn" ? "warning" : level) as Level);
    this.#lowest = flags.debug || level === "trace" ? 0 : named < 0 ? LEVELS.indexOf("info") : named;
    this.#json = flags.format === "json";
  }

  debug(message: string): void {
    this.#write("debug", message);
  }

  info(message: string): void {
    this.#write("info", message);
  }

  warn(message: string): void {
    this.#write("warning", message);
  }

  error(message: string): void {
    this.#write("error", message);
  }

  #write(level: Level, message: string): void {
    if (LEVELS.indexOf(level) < this.#lowest) return;
    const text = this.#json ? jsonLine(level, message) : textLine(level, message);
    for (const file of this.#files) {
      mkdirSync(dirname(file), { recursive: true });
      appendFileSync(file, text, { mode: 0o644 });
    }
  }
}

export function textLine(level: Level, message: string): string {
  return `time=${JSON.stringify(now())} level=${level} msg=${JSON.stringify(message)}\n`;
}

function jsonLine(level: Level, message: string): string {
  return `${JSON.stringify({ level, msg: message, time: now() })}\n`;
}

const now = (): string => new Date().toISOString().replace(/\.\d+Z$/, "Z");
