/** ttRPC's client and server, against each other and against peers that misbehave. */
import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { connect, createServer, type Server, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { create, type DescMethodBiDiStreaming, fromBinary, toBinary } from "@bufbuild/protobuf";
import { task, ttrpc } from "@berth/spec/shim";
import fc from "fast-check";
import { CODE, TtrpcClient, TtrpcClosed, TtrpcError, TtrpcServer } from "../src/index.ts";
import { encodeFrame, FLAG, type Frame, FrameDecoder, MAX_DATA_BYTES, TYPE } from "../src/frame.ts";

const { Task } = task;
let directory = "";
before(async () => (directory = await mkdtemp(join(tmpdir(), "berth-ttrpc-"))));
after(() => rm(directory, { recursive: true, force: true }));

let sockets = 0;
async function served(...add: ((server: TtrpcServer) => void)[]) {
  const server = new TtrpcServer();
  for (const one of add) one(server);
  const path = join(directory, `${sockets++}.sock`);
  await server.listen(path);
  const client = await TtrpcClient.connect(path);
  return {
    path,
    server,
    client,
    [Symbol.asyncDispose]: async () => {
      client.close();
      await server.close();
    },
  };
}

const refused = (code: number, message?: RegExp) => (error: unknown) =>
  error instanceof TtrpcError && error.code === code && (message === undefined || message.test(error.message));

describe("calls", () => {
  test("are answered, many at once and in any order", async () => {
    const gates = Array.from({ length: 20 }, () => Promise.withResolvers<void>());
    await using both = await served((server) =>
      server.add(Task, {
        start: async ({ id }) => {
          await gates[Number(id)]?.promise;
          return { pid: Number(id) };
        },
      }),
    );
    const answers = gates.map((_, id) => both.client.call(Task.method.start, { id: String(id) }));
    for (const gate of gates.toReversed()) gate.resolve();
    assert.deepEqual(
      (await Promise.all(answers)).map(({ pid }) => pid),
      gates.map((_, id) => id),
    );
  });

  test("carry metadata, whose keys are lower case and may repeat", async () => {
    await using both = await served((server) =>
      server.add(Task, {
        state: (_request, { metadata }) => Promise.resolve({ id: JSON.stringify(metadata) }),
      }),
    );
    const metadata = { "Containerd-Namespace-TTRPC": ["k8s.io"], b: ["1", "2"] };
    const { id } = await both.client.call(Task.method.state, {}, { metadata });
    assert.deepEqual(JSON.parse(id), { "containerd-namespace-ttrpc": ["k8s.io"], b: ["1", "2"] });
  });

  test("that fail say how: by code, or as Unknown", async () => {
    await using both = await served((server) =>
      server.add(Task, {
        state: () => Promise.reject(new TtrpcError(CODE.notFound, "no such task")),
        kill: () => Promise.reject(new Error("out of cheese")),
      }),
    );
    await assert.rejects(both.client.call(Task.method.state, {}), refused(CODE.notFound, /^no such task$/));
    await assert.rejects(both.client.call(Task.method.kill, {}), refused(CODE.unknown, /out of cheese/));
  });

  test("of what is not served are Unimplemented, and the connection goes on", async () => {
    await using both = await served((server) => server.add(Task, { connect: () => Promise.resolve({ version: "2" }) }));
    await assert.rejects(both.client.call(Task.method.pause, {}), refused(CODE.unimplemented, /method Pause/));
    const { taskV3 } = await import("@berth/spec/shim");
    await assert.rejects(both.client.call(taskV3.Task.method.connect, {}), refused(CODE.unimplemented, /service/));
    assert.equal((await both.client.call(Task.method.connect, {})).version, "2");
  });

  test("have a deadline, of which the server knows", async () => {
    const ended = Promise.withResolvers<unknown>();
    await using both = await served((server) =>
      server.add(Task, {
        wait: async (_request, { signal }) => {
          signal.addEventListener("abort", () => ended.resolve(signal.reason));
          await new Promise(() => undefined);
          return {};
        },
      }),
    );
    await assert.rejects(both.client.call(Task.method.wait, {}, { timeoutMs: 20 }), refused(CODE.deadlineExceeded));
    assert.ok(refused(CODE.deadlineExceeded)(await ended.promise));
  });

  test("can be given up by their signal", async () => {
    await using both = await served((server) => server.add(Task, { wait: () => new Promise(() => undefined) }));
    const controller = new AbortController();
    const call = both.client.call(Task.method.wait, {}, { signal: controller.signal });
    controller.abort(new Error("enough"));
    await assert.rejects(call, /enough/);
    await assert.rejects(both.client.call(Task.method.wait, {}, { signal: AbortSignal.abort() }), {
      name: "AbortError",
    });
  });

  test("that wait when the connection ends are Unavailable, and the server's are aborted", async () => {
    const aborted = Promise.withResolvers<void>();
    const begun = Promise.withResolvers<void>();
    await using both = await served((server) =>
      server.add(Task, {
        wait: async (_request, { signal }) => {
          signal.addEventListener("abort", () => aborted.resolve());
          begun.resolve();
          await aborted.promise;
          return {};
        },
      }),
    );
    const call = both.client.call(Task.method.wait, {});
    call.catch(() => undefined);
    await begun.promise;
    both.client.close();
    await assert.rejects(call, TtrpcClosed);
    await aborted.promise;
    await assert.rejects(both.client.call(Task.method.wait, {}), TtrpcClosed);
  });

  test("hold 4 MiB: what is longer is refused on either side, by name", async () => {
    const long = "x".repeat(MAX_DATA_BYTES);
    await using both = await served((server) =>
      server.add(Task, {
        state: () => Promise.resolve({ id: long }),
        connect: () => Promise.resolve({ version: "sound" }),
      }),
    );
    await assert.rejects(both.client.call(Task.method.start, { id: long }), refused(CODE.resourceExhausted, /4194304/));
    await assert.rejects(both.client.call(Task.method.state, {}), refused(CODE.resourceExhausted, /4194304/));
    assert.equal((await both.client.call(Task.method.connect, {})).version, "sound");
  });
});

// The Task API has no streams: its methods, read as if they had.
const streaming = { ...Task.method.state, methodKind: "bidi_streaming" } as unknown as DescMethodBiDiStreaming<
  typeof task.StateRequestSchema,
  typeof task.StateResponseSchema
>;
const Streaming = {
  ...Task,
  methods: [streaming],
  method: { state: streaming },
} as unknown as Omit<typeof Task, "method"> & { method: { state: typeof streaming } };

describe("streams", () => {
  test("go both ways, and each side ends its own", async () => {
    await using both = await served((server) =>
      server.add(Streaming, {
        state: async function* (requests) {
          for await (const { id } of requests) yield { id: `${id}!` };
          yield { id: "end" };
        },
      }),
    );
    const stream = await both.client.stream(streaming);
    const got: string[] = [];
    for (const id of ["a", "b"]) await stream.send({ id });
    for await (const { id } of stream) {
      got.push(id);
      if (id === "b!") await stream.closeSend();
    }
    assert.deepEqual(got, ["a!", "b!", "end"]);
  });

  test("that are not read stop the sender, and lose nothing", async () => {
    const count = 3_000;
    let sent = 0;
    await using both = await served((server) =>
      server.add(Streaming, {
        state: async function* () {
          for (; sent < count; sent++) yield { id: String(sent).padEnd(4_096, ".") };
        },
      }),
    );
    const stream = await both.client.stream(streaming);
    await stream.closeSend();
    let got = 0;
    for await (const { id } of stream) {
      assert.equal(Number.parseInt(id, 10), got++);
      if (got === 1) assert.ok(sent < count, "the server has run ahead of what a connection holds");
    }
    assert.equal(got, count);
  });

  test("that fail tell after what they had sent", async () => {
    await using both = await served((server) =>
      server.add(Streaming, {
        // oxlint-disable-next-line require-yield
        state: async function* (requests) {
          for await (const { id } of requests) throw new TtrpcError(CODE.aborted, id);
        },
      }),
    );
    const stream = await both.client.stream(streaming);
    await stream.send({ id: "stop" });
    await assert.rejects(stream[Symbol.asyncIterator]().next(), refused(CODE.aborted, /^stop$/));
  });

  test("can be cancelled by who reads", async () => {
    await using both = await served((server) =>
      server.add(Streaming, {
        state: async function* (requests) {
          for await (const { id } of requests) yield { id };
        },
      }),
    );
    const stream = await both.client.stream(streaming);
    stream.cancel();
    await assert.rejects(stream[Symbol.asyncIterator]().next(), refused(CODE.cancelled));
  });
});

/** A peer of raw frames. */
async function raw(path: string) {
  const socket = connect(path);
  const decoder = new FrameDecoder();
  const frames: Frame[] = [];
  let wake = Promise.withResolvers<void>();
  socket.on("data", (chunk: Buffer) => {
    frames.push(...decoder.push(chunk));
    wake.resolve();
    wake = Promise.withResolvers();
  });
  const response = async () => {
    while (frames.length === 0) await wake.promise;
    const frame = frames.shift() as Frame;
    return { stream: frame.stream, ...fromBinary(ttrpc.ResponseSchema, frame.data) };
  };
  return { socket, response, [Symbol.dispose]: () => void socket.destroy() };
}

const request = (method: string, payload = new Uint8Array()): Uint8Array =>
  toBinary(ttrpc.RequestSchema, create(ttrpc.RequestSchema, { service: Task.typeName, method, payload }));

describe("a client that misbehaves", () => {
  test("is told so, in containerd's words, and served on", async () => {
    await using both = await served((server) => server.add(Task, { connect: () => Promise.resolve({ version: "2" }) }));
    using peer = await raw(both.path);
    const send = (frame: Partial<Frame>) =>
      peer.socket.write(encodeFrame({ stream: 1, type: TYPE.request, flags: 0, data: request("Connect"), ...frame }));
    send({ stream: 2 });
    assert.match((await peer.response()).status?.message ?? "", /must be odd/);
    send({ stream: 3, data: Buffer.from([0xff, 0xff]) });
    assert.equal((await peer.response()).status?.code, CODE.invalidArgument);
    send({ stream: 3 });
    assert.match((await peer.response()).status?.message ?? "", /must increment/);
    send({ stream: 5, type: TYPE.data });
    assert.match((await peer.response()).status?.message ?? "", /no longer active/);
    send({ stream: 7, type: 99 });
    const long = Buffer.alloc(10);
    long.writeUInt32BE(MAX_DATA_BYTES + 1, 0);
    long.writeUInt32BE(9, 4);
    long.writeUInt8(TYPE.request, 8);
    peer.socket.write(long);
    assert.equal((await peer.response()).status?.code, CODE.resourceExhausted);
    peer.socket.write(Buffer.alloc(MAX_DATA_BYTES + 1));
    send({ stream: 11, data: request("Connect", Buffer.from([0xff])) });
    assert.equal((await peer.response()).stream, 11);
    send({ stream: 13 });
    const { stream, status, payload } = await peer.response();
    assert.deepEqual([stream, status?.code ?? 0], [13, CODE.ok]);
    assert.equal(fromBinary(task.ConnectResponseSchema, payload).version, "2");
  });

  test("does not harm the others, whatever bytes it sends", async () => {
    await using both = await served((server) => server.add(Task, { connect: () => Promise.resolve({ version: "2" }) }));
    await fc.assert(
      fc.asyncProperty(fc.array(fc.uint8Array({ maxLength: 60 }), { maxLength: 5 }), async (parts) => {
        const socket = connect(both.path);
        socket.on("error", () => undefined);
        for (const part of parts) socket.write(part);
        socket.end();
        socket.resume();
        await new Promise((resolve) => socket.once("close", resolve));
        assert.equal((await both.client.call(Task.method.connect, {})).version, "2");
      }),
      { numRuns: 60 },
    );
  });
});

describe("a server that misbehaves", () => {
  async function against(answer: (socket: Socket, frame: Frame) => void) {
    const path = join(directory, `${sockets++}.sock`);
    const server: Server = createServer((socket) => {
      const decoder = new FrameDecoder();
      socket.on("data", (chunk: Buffer) => {
        for (const frame of decoder.push(chunk)) answer(socket, frame);
      });
      socket.on("error", () => undefined);
    });
    await new Promise<void>((resolve) => server.listen(path, resolve));
    const client = await TtrpcClient.connect(path);
    return {
      client,
      [Symbol.asyncDispose]: async () => {
        client.close();
        await new Promise((resolve) => server.close(resolve));
      },
    };
  }

  test("fails the call that it answers badly, and no other", async () => {
    let call = 0;
    const bad: Partial<Frame>[] = [
      { data: Buffer.from([0xff, 0xff]) },
      { type: TYPE.data, flags: FLAG.closed },
      { type: 77 },
      { stream: 4_711 },
    ];
    await using both = await against((socket, { stream }) => {
      const payload = toBinary(task.ConnectResponseSchema, create(task.ConnectResponseSchema, { version: "2" }));
      const good = {
        stream,
        type: TYPE.response,
        flags: 0,
        data: toBinary(ttrpc.ResponseSchema, create(ttrpc.ResponseSchema, { payload })),
      };
      const wrong = bad[call++];
      if (wrong) socket.write(encodeFrame({ ...good, ...wrong }));
      if (!wrong || wrong.stream !== undefined) socket.write(encodeFrame(good));
    });
    for (let i = 0; i < 3; i++)
      await assert.rejects(both.client.call(Task.method.connect, {}), refused(CODE.internal), String(i));
    assert.equal((await both.client.call(Task.method.connect, {})).version, "2");
    assert.equal((await both.client.call(Task.method.connect, {})).version, "2");
  });

  test("that goes in the middle of an answer is Unavailable", async () => {
    await using both = await against((socket, { stream }) => {
      socket.end(encodeFrame({ stream, type: TYPE.response, flags: 0, data: Buffer.alloc(100) }).subarray(0, 40));
    });
    await assert.rejects(both.client.call(Task.method.connect, {}), TtrpcClosed);
  });
});
