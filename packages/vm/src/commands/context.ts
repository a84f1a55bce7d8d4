/** What every command works with. */
import { loadSettings, type VmSettings } from "../configuration/settings.ts";

export interface Io {
  readonly stdout: { write(text: string): unknown };
  readonly stderr: { write(text: string): unknown };
  readonly env: Readonly<Record<string, string | undefined>>;
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
}
