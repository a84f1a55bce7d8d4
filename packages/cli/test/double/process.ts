/** A container's process, as the fake daemon has it: a few programs, enough to see bytes, exit codes and signals go by. */
import { appendFileSync } from "node:fs";
import type { Peer } from "./streams.ts";

export class StartError extends Error {}

export class FakeProcess {
  readonly #argv: readonly string[];
  readonly #logPath: string;
  readonly #finish: (peer: Peer, code: number) => void;
  readonly #peers = new Set<Peer>();
  readonly exited: Promise<number>;
  readonly #exit: (code: number) => void;
  #running = false;
  #onStdin: ((data: Buffer) => void) | undefined;
  #onStdinEnd: (() => void) | undefined;
  #onResize: ((size: { Width: number; Height: number }) => void) | undefined;

  /** `finish` ends the stream of each peer when the process has ended: an exec's tells the exit code, an attach's does not. */
  constructor(
    argv: readonly string[],
    logPath: string,
    finish: (peer: Peer, code: number) => void = (peer) => peer.finish({ status: "Success" }),
  ) {
    this.#argv = argv;
    this.#logPath = logPath;
    this.#finish = finish;
    const { promise, resolve } = Promise.withResolvers<number>();
    this.exited = promise;
    this.#exit = resolve;
  }

  attach(peer: Peer): void {
    this.#peers.add(peer);
    peer.onStdin((data) => this.#onStdin?.(data));
    peer.onStdinEnd(() => this.#onStdinEnd?.());
    peer.onResize((size) => this.#onResize?.(size as { Width: number; Height: number }));
    void peer.closed.then(() => this.#peers.delete(peer));
  }

  /** Throws StartError as bosun does for a command that cannot be executed. */
  start(): void {
    const [program = "", ...words] = this.#argv;
    if (program === "missing") throw new StartError(`exec ${program}: ENOENT (no such file or directory)`);
    if (program === "denied") throw new StartError(`exec ${program}: EACCES (permission denied)`);
    this.#running = true;
    this.#run(program, words);
    // What was sent before the start is read now.
    for (const peer of this.#peers) this.attach(peer);
  }

  #run(program: string, words: readonly string[]): void {
    if (program === "echo") {
      this.write("stdout", `${words.join(" ")}\n`);
      this.end(0);
    } else if (program === "both") {
      this.write("stdout", "to stdout\n");
      this.write("stderr", "to stderr\n");
      this.end(0);
    } else if (program === "exit") {
      this.end(Number(words[0]));
    } else if (program === "cat") {
      this.#onStdin = (data) => this.write("stdout", data);
      this.#onStdinEnd = () => this.end(0);
    } else if (program === "size") {
      this.#onResize = ({ Width, Height }) => {
        this.write("stdout", `${Width}x${Height}\n`);
        if (Width > 100) this.end(0);
      };
    } else if (program === "sleep") {
      this.write("stdout", "sleeping\n");
    } else {
      throw new StartError(`exec ${program}: ENOENT (no such file or directory)`);
    }
  }

  write(stream: "stdout" | "stderr", data: string | Uint8Array): void {
    for (const peer of this.#peers) peer[stream](data);
    if (this.#logPath === "") return;
    for (const line of Buffer.from(data).toString().split("\n").slice(0, -1))
      appendFileSync(this.#logPath, `${new Date().toISOString().replace("Z", "000000Z")} ${stream} F ${line}\n`);
  }

  /** The connection breaks; the process runs on. */
  dropPeers(): void {
    for (const peer of this.#peers) peer.terminate();
  }

  stop(timeout: bigint): void {
    this.end(timeout === 0n ? 137 : 143);
  }

  end(code: number): void {
    this.#running = false;
    this.#exit(code);
    for (const peer of this.#peers) this.#finish(peer, code);
  }

  get running(): boolean {
    return this.#running;
  }
}
