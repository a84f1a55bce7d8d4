/** A process for commands under test: buffers for output, an emitter for signals, a terminal if asked for. */
import { EventEmitter } from "node:events";
import { PassThrough, Writable } from "node:stream";
import { berth } from "../../src/program.ts";
import type { Input, Output, Shell } from "../../src/shell.ts";

export class Sink extends Writable {
  readonly #chunks: Buffer[] = [];
  isTTY = false;
  columns = 80;
  rows = 24;

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: () => void): void {
    this.#chunks.push(chunk);
    this.emit("written");
    done();
  }
  get bytes(): Buffer {
    return Buffer.concat(this.#chunks);
  }
  get text(): string {
    return this.bytes.toString();
  }
  /** Settles when `pattern` has been written. */
  async until(pattern: RegExp): Promise<void> {
    while (!pattern.test(this.text)) {
      await new Promise<void>((resolve) => {
        this.once("written", resolve);
      });
    }
  }
}

export class Terminal extends PassThrough {
  isTTY = false;
}

export interface TestShell extends Shell {
  readonly stdin: Terminal & Input;
  readonly stdout: Sink & Output;
  readonly stderr: Sink & Output;
  readonly signals: EventEmitter;
  /** Each change of the terminal's mode: raw or not. */
  readonly modes: boolean[];
}

export function testShell(
  options: {
    readonly tty?: boolean;
    readonly env?: Record<string, string>;
    readonly cwd?: string;
    readonly run?: Shell["run"];
  } = {},
): TestShell {
  const [stdin, stdout, stderr] = [new Terminal(), new Sink(), new Sink()];
  const modes: boolean[] = [];
  const rawTerminal = (): Disposable => {
    modes.push(true);
    return { [Symbol.dispose]: () => void modes.push(false) };
  };
  for (const stream of [stdin, stdout, stderr]) stream.isTTY = options.tty === true;
  return {
    stdin,
    stdout,
    stderr,
    env: options.env ?? {},
    cwd: options.cwd ?? "/",
    signals: new EventEmitter(),
    modes,
    rawTerminal,
    run: (argv, input) => {
      const run = options.run ?? (() => Promise.reject(new Error(`spawn ${argv[0]} ENOENT`)));
      return run(argv, input);
    },
  };
}

export interface Outcome {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs one command line to its end. */
export async function runBerth(argv: readonly string[], shell: TestShell = testShell()): Promise<Outcome> {
  const code = await berth(argv, shell);
  return { code, stdout: shell.stdout.text, stderr: shell.stderr.text };
}
