/**
 * The streams between a process's monitor and containerd's FIFOs. As runc's shim, both ends of each FIFO are held, so that a containerd
 * that restarts is no end of the process's input and no broken pipe to its outputs.
 */
import { closeSync, constants, createWriteStream, openSync, statSync } from "node:fs";
import { open } from "node:fs/promises";
import { Socket } from "node:net";
import type { Writable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { type MonitorLink, STREAM } from "@berth/kernel";
import { CODE, TtrpcError } from "@berth/ttrpc";

export interface StreamPaths {
  readonly stdin: string;
  readonly stdout: string;
  readonly stderr: string;
}

/** A process that has nobody any more who reads it may hold its outputs open. */
const DRAIN_MS = 2_000;

export class Streams {
  readonly #outputs: Promise<unknown>[] = [];
  /** containerd's end of the input, as long as it is not to end. */
  #writer: number | undefined;
  #input: Socket | undefined;

  /** STREAM bits of what is wanted. */
  static bits({ stdin, stdout, stderr }: StreamPaths): number {
    return (stdin ? STREAM.stdin : 0) | (stdout ? STREAM.stdout : 0) | (stderr ? STREAM.stderr : 0);
  }

  /** Before the process is started, or once it has been where its output waits. With a terminal there is no stderr. */
  async connect(link: MonitorLink, session: number, paths: StreamPaths, terminal: boolean): Promise<void> {
    const outputs = [
      [paths.stdout, STREAM.stdout],
      [terminal ? "" : paths.stderr, STREAM.stderr],
    ] as const;
    for (const [path, stream] of outputs) {
      if (path === "") continue;
      const to = await openOutput(path);
      const from = await link.attach(session, stream);
      // containerd may have gone from its end; the process goes on.
      this.#outputs.push(pipeline(from, to).catch(() => undefined));
    }
    if (paths.stdin !== "") await this.#connectInput(link, session, paths.stdin);
  }

  /** The end comes when containerd has closed its end too, and all is read. */
  closeInput(): void {
    if (this.#writer !== undefined) closeSync(this.#writer);
    this.#writer = undefined;
  }

  /** The process has ended: what it has written is at containerd. */
  async drained(): Promise<void> {
    this.closeInput();
    this.#input?.destroy();
    const late = Promise.withResolvers<void>();
    const timer = setTimeout(late.resolve, DRAIN_MS);
    await Promise.race([Promise.all(this.#outputs), late.promise]);
    clearTimeout(timer);
  }

  async #connectInput(link: MonitorLink, session: number, path: string): Promise<void> {
    const reader = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
    this.#writer = openSync(path, constants.O_WRONLY | constants.O_NONBLOCK);
    const from = socketOn(reader, { readable: true, writable: false });
    this.#input = from;
    try {
      const to = await link.attach(session, STREAM.stdin);
      pipeline(from, to).catch(() => undefined);
    } catch {
      // It has closed its input, or ended, already.
      from.destroy();
    }
  }
}

/** A FIFO of containerd's, or "file://PATH", which it is appended to. */
async function openOutput(path: string): Promise<Writable> {
  const uri = /^([a-z]+):\/\/(.*)$/.exec(path);
  if (uri?.[1] === "file") return createWriteStream(uri[2] ?? "", { flags: "a" });
  if (uri)
    throw new TtrpcError(CODE.unimplemented, `${path}: berth's shim writes to FIFOs and file://, not to ${uri[1]}://`);
  if (!statSync(path).isFIFO()) return createWriteStream(path, { flags: "a" });
  // containerd opens its end about now: what is written before, and closed again, nobody would read.
  const first = await open(path, constants.O_WRONLY);
  // For both, so that it is never without a reader.
  const output = socketOn(openSync(path, constants.O_RDWR | constants.O_NONBLOCK), { readable: false, writable: true });
  await first.close();
  return output;
}

/** By the event loop, not by threads that would wait. The descriptor is the socket's from now on. */
function socketOn(fd: number, ways: { readonly readable: boolean; readonly writable: boolean }): Socket {
  const socket = new Socket({ fd, ...ways });
  return socket.on("error", () => socket.destroy());
}
