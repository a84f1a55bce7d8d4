/** SPDY/3.1 without a network: two ends on an in-memory pipe, and frames by hand where an end must misbehave. */
import assert from "node:assert/strict";
import { createHash, randomBytes } from "node:crypto";
import { duplexPair } from "node:stream";
import { buffer } from "node:stream/consumers";
import { test } from "node:test";
import { createDeflate, constants, deflateSync } from "node:zlib";
import { IdleTimer } from "../../src/streaming/idle.ts";
import { followResizes, type Wanted } from "../../src/streaming/remote.ts";
import { SpdyRemote } from "../../src/streaming/remote-spdy.ts";
import { SpdyConnection } from "../../src/streaming/spdy/connection.ts";
import { DICTIONARY } from "../../src/streaming/spdy/dictionary.ts";
import { control, field, FrameReader, INITIAL_WINDOW, TYPE } from "../../src/streaming/spdy/frames.ts";
import { HeaderInflater, HeaderWriter } from "../../src/streaming/spdy/headers.ts";
import type { SpdyStream } from "../../src/streaming/spdy/stream.ts";

const headers = (type: string) => new Map([["streamtype", type]]);

function pair(onStream: (stream: SpdyStream) => boolean = () => true) {
  const [a, b] = duplexPair();
  const server = new SpdyConnection(a, { onStream });
  return { server, client: new SpdyConnection(b, { role: "client" }), raw: b };
}

/** A client by hand. */
function byHand(onStream: (stream: SpdyStream) => boolean = () => true) {
  const [a, b] = duplexPair();
  const frames = new FrameReader();
  b.on("data", (chunk: Buffer) => frames.push(chunk));
  const server = new SpdyConnection(a, { onStream });
  const syn = (id: number, block: Buffer): Buffer =>
    control(TYPE.synStream, 0, [id, 0], Buffer.concat([Buffer.alloc(2), block]));
  return { server, client: b, frames, syn };
}

const turn = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, 20));

test("the dictionary is the draft's", () => {
  assert.equal(DICTIONARY.length, 1423);
  assert.equal(
    createHash("sha256").update(DICTIONARY).digest("hex"),
    "51d27341373f923f3cd88e1eb7162aeaa3723d7585ff2399201dc06498407f02",
  );
});

test("header blocks: own ones, a compressor's, and what is none", async () => {
  const [writer, reader] = [new HeaderWriter(), new HeaderInflater()];
  for (const type of ["error", "stdin"])
    assert.deepEqual(await reader.read(writer.write(headers(type))), headers(type));
  reader.close();
  const compressed = new HeaderInflater();
  const deflate = createDeflate({ dictionary: DICTIONARY, flush: constants.Z_SYNC_FLUSH });
  const block = Buffer.from("\0\0\0\x01\0\0\0\x04host\0\0\0\x01x", "latin1");
  const first = new Promise<Buffer>((resolve) => deflate.once("data", resolve));
  deflate.write(block);
  deflate.flush(constants.Z_SYNC_FLUSH);
  assert.deepEqual(await compressed.read(await first), new Map([["host", "x"]]));
  compressed.close();
  await assert.rejects(new HeaderInflater().read(Buffer.from("not zlib")), /incorrect|invalid|unknown/i);
  await assert.rejects(new HeaderInflater().read(deflateSync(Buffer.alloc(1 << 20))), /more than 65536 bytes/);
  await assert.rejects(new HeaderInflater().read(deflateSync(Buffer.from("\0\0\0\x02\0\0\0\x09a"))), /ends early/);
});

test("data both ways, half-closed each, over frames that come a byte at a time or at once", async () => {
  const data = randomBytes(3 << 20);
  const { client, server } = pair((stream) => {
    stream.pipe(stream);
    return true;
  });
  const stream = await client.open(headers("data"));
  stream.end(data);
  assert.deepEqual(await buffer(stream), data);
  const reader = new FrameReader();
  const bytes = Buffer.concat([control(TYPE.ping, 0, [1]), control(TYPE.goAway, 0, [0, 0])]);
  const types: number[] = [];
  for (const byte of bytes) {
    reader.push(Buffer.of(byte));
    const frame = reader.next();
    if (frame?.kind === "control") types.push(frame.type);
  }
  assert.deepEqual(types, [TYPE.ping, TYPE.goAway]);
  await Promise.all([server.close(), client.closed]);
});

test("what was sent before a goodbye can be read after it", async () => {
  const { client, server } = pair((stream) => {
    stream.resume();
    stream.end(Buffer.alloc(200_000, 1));
    setImmediate(() => void server.close());
    return true;
  });
  const stream = await client.open(headers("stdout"));
  await client.closed;
  assert.equal((await buffer(stream)).length, 200_000);
});

test("a client that names a window is not sent more than it", async () => {
  const { client, frames, syn } = byHand((stream) => {
    setImmediate(() => stream.end(Buffer.alloc(300_000)));
    return true;
  });
  client.write(control(TYPE.settings, 0, [1, 7, 1000]));
  client.write(syn(1, new HeaderWriter().write(headers("stdout"))));
  /** Until there are as many, and then whether there are more. */
  const received = async (least: number): Promise<number> => {
    let size = 0;
    for (let last = false; !last; await turn()) {
      last = size >= least;
      for (let frame = frames.next(); frame; frame = frames.next())
        if (frame.kind === "data") size += frame.bytes.length;
    }
    return size;
  };
  assert.equal(await received(1000), 1000);
  client.write(control(TYPE.windowUpdate, 0, [1, 500_000]));
  assert.equal(await received(INITIAL_WINDOW - 1000), INITIAL_WINDOW - 1000, "the session's window holds, too");
  client.write(control(TYPE.windowUpdate, 0, [0, 500_000]));
  assert.equal(await received(300_000 - INITIAL_WINDOW), 300_000 - INITIAL_WINDOW);
  client.destroy();
});

async function arrived(frames: FrameReader): Promise<NonNullable<ReturnType<FrameReader["next"]>>> {
  for (;;) {
    const frame = frames.next();
    if (frame) return frame;
    await turn();
  }
}

test("a stream that is reset is broken; for who asks so it has ended, with all that came before", async () => {
  for (const resetEnds of [true, false]) {
    const [a, b] = duplexPair();
    const onStream = (stream: SpdyStream): boolean => {
      stream.write("status", () => stream.destroy());
      return true;
    };
    const server = new SpdyConnection(a, { onStream });
    const client = new SpdyConnection(b, { role: "client", resetEnds });
    const stream = await client.open(headers("error"));
    const said = buffer(stream);
    if (resetEnds) assert.equal(String(await said), "status");
    else await assert.rejects(said);
    server.destroy();
    client.destroy();
  }
});

test("pings are answered, wrong stream numbers reset, nonsense ends the connection", async () => {
  const { client, server, frames, syn } = byHand();
  const writer = new HeaderWriter();
  client.write(control(TYPE.ping, 0, [7]));
  client.write(syn(2, writer.write(headers("x"))));
  const answers = [await arrived(frames), await arrived(frames)];
  assert.deepEqual(
    answers.map((frame) => frame.kind === "control" && [frame.type, field(frame, 0)]),
    [
      [TYPE.ping, 7],
      [TYPE.rstStream, 2],
    ],
  );
  client.write(Buffer.from("80020001000000ff", "hex"));
  await server.closed;
  const last = await arrived(frames);
  assert.ok(last.kind === "control" && last.type === TYPE.goAway && field(last, 4) === 1);
});

test("the end of a connection ends its streams, their writers and those being opened", async () => {
  const { client, raw } = pair(() => true);
  const stream = await client.open(headers("data"));
  const closed = new Promise((resolve) => stream.once("close", resolve));
  raw.destroy();
  await Promise.all([closed, client.closed]);
  await assert.rejects(client.open(headers("data")), /closed/);
});

test("streams that a request does not promise are refused, missing ones time out", async () => {
  const wanted: Wanted = { tty: false, stdin: false, stdout: true, stderr: true };
  const { client, server } = pair((stream) => remote.add(stream));
  const remote = new SpdyRemote("v4.channel.k8s.io", wanted, server);
  await client.open(headers("error"));
  for (const type of ["error", "stdin", "resize", "nonsense"])
    await assert.rejects(client.open(headers(type)), /refused/, type);
  await assert.rejects(remote.complete(30), /timed out waiting for client to create streams/);
  await Promise.all([remote.finish(new Error("late")), client.closed]);
});

test("idle connections end, busy ones do not", (t) => {
  let now = 0;
  t.mock.method(performance, "now", () => now);
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const ended: number[] = [];
  const pass = (ms: number): void => {
    now += ms;
    t.mock.timers.tick(ms);
  };
  const timer = new IdleTimer(60, () => ended.push(now));
  for (let turn = 0; turn < 10; turn++) {
    pass(10);
    timer.touch();
  }
  pass(59);
  assert.equal(ended.length, 0);
  pass(1);
  assert.deepEqual(ended, [160]);
  const stopped = new IdleTimer(60, () => ended.push(now));
  stopped.stop();
  pass(100);
  assert.deepEqual(ended, [160]);
});

test("sizes of terminals, in pieces, until something is none", async () => {
  const sizes: number[][] = [];
  const [near, far] = duplexPair();
  const done = followResizes(far, (rows, columns) => void sizes.push([rows, columns]));
  for (const piece of [
    '{"Width":80,"Hei',
    'ght":24}\n{"Width":1,"Height":2}',
    '{"Width":-1,"Height":2}{"Width":9,"Height":9}',
  ])
    near.write(piece);
  await done;
  assert.deepEqual(sizes, [
    [24, 80],
    [2, 1],
  ]);
});
