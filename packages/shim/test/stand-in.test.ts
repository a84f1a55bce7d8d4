/**
 * bosun's order shim_process against a shim made up here: streams, signals, sizes and codes pass; a shim that refuses, goes or talks
 * nonsense ends the stand-in and nothing else. Once more with bosun's sanitizers where clang is.
 */
import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import { closeSync, constants, mkdirSync, mkdtempSync, openSync, rmSync, writeSync } from "node:fs";
import { createServer, type Server, Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { buffer } from "node:stream/consumers";
import { after, before, describe, test } from "node:test";
import { connectMonitor, type Hand, type MonitorLink, startHand, STREAM } from "@berth/kernel";
import { task } from "@berth/spec/shim";
import fc from "fast-check";
import { fifosIn, planShimProcess } from "../src/index.ts";
import { CODE, encodeFrame, FrameDecoder, TtrpcError, TtrpcServer, TYPE } from "@berth/ttrpc";

const native = join(import.meta.dirname, "../../native");
const built = join(native, "../../.build/native");
const hasClang = spawnSync("clang", ["--version"]).error === undefined;
const LOST = 137;

/** What the made-up shim was told, and what it answers. */
class Shim {
  readonly told: string[] = [];
  readonly exit = Promise.withResolvers<number>();
  readonly waited = Promise.withResolvers<void>();
  refusal: TtrpcError | undefined;
  readonly #heard = new Map<string, PromiseWithResolvers<void>>();

  serve(): TtrpcServer {
    const hear = (words: string): Promise<object> => {
      this.told.push(words);
      this.#wanted(words).resolve();
      return Promise.resolve({});
    };
    return new TtrpcServer().add(task.Task, {
      start: ({ id, execId }) => (this.refusal ? Promise.reject(this.refusal) : hear(`start ${id} ${execId}`)),
      kill: ({ signal }) => hear(`kill ${signal}`),
      resizePty: ({ width, height }) => hear(`resize ${width}x${height}`),
      closeIO: ({ stdin }) => hear(`close ${stdin}`),
      wait: async () => {
        this.waited.resolve();
        return { exitStatus: await this.exit.promise };
      },
    });
  }

  heard(words: string): Promise<void> {
    return this.#wanted(words).promise;
  }

  #wanted(words: string): PromiseWithResolvers<void> {
    const wanted = this.#heard.get(words) ?? Promise.withResolvers<void>();
    this.#heard.set(words, wanted);
    return wanted;
  }
}

for (const name of ["bosun", "bosun-asan"]) {
  const skip =
    process.getuid?.() !== 0 ? "needs root" : name === "bosun-asan" && !hasClang ? "clang is not installed" : false;
  describe(`the stand-in of ${name}`, { skip }, () => {
    let directory = "";
    let hand: Hand;
    let count = 0;
    before(async () => {
      if (skip) return;
      execFileSync(join(native, "build"), name === "bosun" ? [] : ["--sanitize"]);
      // A leak is looked for by tracing the process at its end, which plans make impossible in many ways.
      process.env["ASAN_OPTIONS"] = "detect_leaks=0";
      directory = mkdtempSync(join(tmpdir(), "berth-stand-in-"));
      hand = await startHand({ bosun: join(built, name), state: directory });
    });
    after(async () => {
      if (skip) return;
      await hand.close();
      rmSync(directory, { recursive: true });
    });

    /** Parked, with the shim's ends of its FIFOs. */
    async function parked(socket: string, terminal = false) {
      const dir = join(directory, `${++count}`);
      mkdirSync(dir);
      const fifos = fifosIn(dir, "io", terminal, true);
      const shim = { address: socket, version: 2 } as const;
      const process = { shim, namespace: "n", id: "c", execId: "", terminal, fifos, parks: true };
      const size = terminal ? { rows: 24, columns: 80 } : undefined;
      await hand.monitor({ dir, plan: planShimProcess(process), stdin: true, stdinOnce: true, terminal: size });
      const link = await connectMonitor(dir, planShimProcess(process));
      const output = (path: string | undefined): number =>
        path === undefined ? -1 : openSync(path, constants.O_RDWR | constants.O_NONBLOCK);
      const ends = [output(fifos.stdout), output(fifos.stderr)];
      return { dir, link, ends, stdin: fifos.stdin ?? "" };
    }

    function closeEnds(ends: readonly number[]): void {
      for (const fd of ends) if (fd >= 0) closeSync(fd);
    }

    async function withShim(
      use: (shim: Shim, made: Awaited<ReturnType<typeof parked>>, server: TtrpcServer) => Promise<void>,
      terminal = false,
    ): Promise<void> {
      const shim = new Shim();
      const server = shim.serve();
      const socket = join(directory, `s${++count}`);
      await server.listen(socket);
      const made = await parked(socket, terminal);
      try {
        await use(shim, made, server);
      } finally {
        made.link.close();
        await server.close();
      }
    }

    const attached = async (link: MonitorLink) => ({
      stdin: await link.attach(0, STREAM.stdin),
      stdout: buffer(await link.attach(0, STREAM.stdout)),
      stderr: buffer(await link.attach(0, STREAM.stderr)),
    });

    test("streams, signals and the code pass; the input's end is told", async () => {
      await withShim(async (shim, { link, ends, stdin }) => {
        const reader = openSync(stdin, constants.O_RDONLY | constants.O_NONBLOCK);
        const input = buffer(socketOn(reader));
        const streams = await attached(link);
        await link.start();
        streams.stdin.end("typed");
        await shim.heard("close true");
        assert.equal(String(await input), "typed");
        for (const signal of [1, 10, 15, 34, 64]) {
          await link.kill(0, signal);
          await shim.heard(`kill ${signal}`);
        }
        writeSync(ends[0] ?? -1, "out");
        writeSync(ends[1] ?? -1, "err");
        closeEnds(ends);
        shim.exit.resolve(7);
        assert.equal((await link.exited).code, 7);
        assert.deepEqual([String(await streams.stdout), String(await streams.stderr)], ["out", "err"]);
        assert.equal(shim.told[0], "start c ");
      });
    });

    test("a terminal: raw, with its size from the start and at each change", async () => {
      await withShim(async (shim, { link, ends, stdin }) => {
        const reader = openSync(stdin, constants.O_RDONLY | constants.O_NONBLOCK);
        const keyboard = await link.attach(0, STREAM.stdin);
        const screen = buffer(await link.attach(0, STREAM.stdout));
        await link.start();
        await shim.heard("resize 80x24");
        await link.resize(0, 40, 120);
        await shim.heard("resize 120x40");
        const typed = new Promise<string>((resolve) =>
          socketOn(reader).once("data", (data: Buffer) => resolve(data.toString())),
        );
        keyboard.write("\u0003x\r");
        assert.equal(await typed, "\u0003x\r");
        writeSync(ends[0] ?? -1, "a\nb");
        closeEnds(ends);
        shim.exit.resolve(0);
        assert.equal((await link.exited).code, 0);
        assert.equal(String(await screen), "a\nb");
      }, true);
    });

    test("what the shim refuses is the start's failure, in its words", async () => {
      await withShim(async (shim, { link, ends }) => {
        shim.refusal = new TtrpcError(CODE.notFound, `exec: "x": ${"long ".repeat(300)}`);
        await assert.rejects(link.start(), /ECHILD: exec: "x": long long/);
        closeEnds(ends);
      });
    });

    test("a shim that goes: 137; one that is not there: refused", async () => {
      await withShim(async (shim, { link, ends }, server) => {
        await link.start();
        await shim.waited.promise;
        closeEnds(ends);
        await server.close();
        assert.equal((await link.exited).code, LOST);
      });
      const { link, ends } = await parked(join(directory, "nobody"));
      await assert.rejects(link.start(), /connect .*nobody/);
      closeEnds(ends);
      link.close();
    });

    test("outputs that are held open do not hold up the end for ever", async () => {
      await withShim(async (shim, { link, ends }) => {
        const streams = await attached(link);
        await link.start();
        writeSync(ends[0] ?? -1, "last");
        shim.exit.resolve(3);
        assert.equal((await link.exited).code, 3);
        assert.equal(String(await streams.stdout), "last");
        closeEnds(ends);
      });
    });

    test("nonsense from the shim ends it with 137, or is waited out", async () => {
      const ok = encodeFrame({ stream: 1, type: TYPE.response, flags: 0, data: new Uint8Array() });
      const huge = Buffer.from("ffffffff00000003020000", "hex");
      await fc.assert(
        fc.asyncProperty(fc.uint8Array({ maxLength: 80 }), fc.boolean(), async (bytes, framed) => {
          const answer = framed ? encodeFrame({ stream: 3, type: TYPE.response, flags: 0, data: bytes }) : bytes;
          const socket = join(directory, `g${++count}`);
          const server = await babbler(socket, ok, answer);
          const { link, ends } = await parked(socket);
          closeEnds(ends);
          await link.start();
          const { code } = await link.exited;
          assert.ok(code >= 0 && code <= 255);
          link.close();
          await new Promise((resolve) => server.close(resolve));
        }),
        { numRuns: 15, examples: [[huge, false]] },
      );
    });
  });
}

/** Answers the first request with `first`, the second with `then`, and goes. */
async function babbler(path: string, first: Uint8Array, then: Uint8Array): Promise<Server> {
  const server = createServer((socket: Socket) => {
    const decoder = new FrameDecoder();
    let requests = 0;
    socket.on("error", () => undefined);
    socket.on("data", (chunk: Buffer) => {
      for (const _frame of decoder.push(chunk)) {
        if (++requests === 1) socket.write(first);
        else if (requests === 2) socket.end(then);
      }
    });
  });
  await new Promise<void>((resolve) => server.listen(path, resolve));
  return server;
}

const socketOn = (fd: number): Socket => new Socket({ fd, readable: true, writable: false });
