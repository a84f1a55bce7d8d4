/** What every command works with. */
import type { Readable } from "node:stream";
import { loadSettings, type VmSettings } from "../configuration/settings.ts";

export interface Io {
  readonly stdin?: Readable & { readonly isTTY?: boolean; setRawMode?(raw: boolean): unknown };
  readonly stdout: { write(text: string | Uint8Array): unknown };
  readonly stderr: { write(text: string): unknown };
  readonly env: Readonly<Record<string, string | undefined>>;
  /** Ends what would not end by itself. Default: SIGINT and SIGTERM do. */
  readonly stop?: AbortSignal;
}

export interface GlobalOptions {
  readonly config?: string;
  readonly kataConfig?: string;
  readonly state: string;
  readonly image: string;
}

export class Context {
  readonly io: Io;
  readonly #options: () => GlobalOptions;

  constructor(io: Io, options: () => GlobalOptions) {
    this.io = io;
    this.#options = options;
  }

  get options(): GlobalOptions {
    return this.#options();
  }

  print(text: string): void {
    this.io.stdout.write(text.endsWith("\n") ? text : `${text}\n`);
  }

  /** Rejects with VmError. */
  async settings(): Promise<VmSettings> {
    const { config, kataConfig } = this.options;
    return await loadSettings({ named: config ?? kataConfig, environment: this.io.env["KATA_CONF_FILE"] });
  }

  /** Resolves when somebody asks for the end. */
  async stopped(): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    const end = (): void => resolve();
    const { stop } = this.io;
    if (stop?.aborted) return;
    if (stop) stop.addEventListener("abort", end, { once: true });
    else for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, end);
    await promise;
  }
}
