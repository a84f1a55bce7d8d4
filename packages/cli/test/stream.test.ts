import assert from "node:assert/strict";
import { Writable } from "node:stream";
import { test } from "node:test";
import { Failure } from "../src/failure.ts";
import { openStream, parseStatus } from "../src/stream/client.ts";
import { DetachKeys, parseDetachKeys } from "../src/stream/detach-keys.ts";
import { type Peer, Sink, streamServer } from "./double/index.ts";

async function connected(handle: (peer: Peer) => void, protocols?: readonly string[]) {
  const server = await streamServer(handle, protocols);
  const outputs = { stdout: new Sink(), stderr: new Sink() };
  const stream = await openStream(`${server.base}/exec/token`, outputs);
  return { stream, ...outputs, [Symbol.asyncDispose]: () => server.close() };
}

test("v5: both outputs, exit code, half-close of stdin", async () => {
  const got: string[] = [];
  await using link = await connected((peer) => {
    assert.equal(peer.protocol, "v5.channel.k8s.io");
    peer.stdout("out");
    peer.stderr("err");
    peer.onStdin((data) => got.push(data.toString()));
    peer.onStdinEnd(() => {
      peer.stdout(" after the end of stdin");
      peer.exit(3);
    });
  });
  await link.stream.writeStdin(Buffer.from("in"));
  link.stream.endStdin();
  await link.stream.writeStdin(Buffer.from("too late"));
  assert.deepEqual(await link.stream.ended, { kind: "exit", code: 3 });
  assert.deepEqual([link.stdout.text, link.stderr.text, got], ["out after the end of stdin", "err", ["in"]]);
});

test("v4 is spoken where v5 is not, and tells no end of stdin", async () => {
  const got: string[] = [];
  await using link = await connected(
    (peer) => {
      peer.onStdin((data) => {
        got.push(data.toString());
        peer.exit(0);
      });
      peer.onStdinEnd(() => got.push("an end that v4 does not have"));
    },
    ["v4.channel.k8s.io"],
  );
  assert.equal(link.stream.canEndStdin, false);
  link.stream.endStdin();
  assert.deepEqual(got, []);
  link.stream.detach();
  assert.equal((await link.stream.ended).kind, "detached");
});

test("resize", async () => {
  const sizes: unknown[] = [];
  await using link = await connected((peer) =>
    peer.onResize((size) => {
      sizes.push(size);
      peer.exit(0);
    }),
  );
  link.stream.resize(132, 43);
  await link.stream.ended;
  assert.deepEqual(sizes, [{ Width: 132, Height: 43 }]);
});

test("binary output, byte for byte", async () => {
  const data = Buffer.from(Array.from({ length: 200_000 }, (_, index) => index % 256));
  await using link = await connected((peer) => {
    peer.stdout(data);
    peer.exit(0);
  });
  await link.stream.ended;
  assert.deepEqual(link.stdout.bytes, data);
});

test("a slow reader holds the server back, and gets everything", async () => {
  let held = 0;
  const server = await streamServer((peer) => {
    for (let i = 0; i < 64; i++) peer.stdout(Buffer.alloc(64 << 10, i));
    peer.exit(0);
  });
  await using _ = { [Symbol.asyncDispose]: () => server.close() };
  let bytes = 0;
  const slow = new Writable({
    highWaterMark: 1,
    write(chunk: Buffer, _encoding, done) {
      bytes += chunk.length;
      held = Math.max(held, this.writableLength);
      setImmediate(done);
    },
  });
  const stream = await openStream(server.base, { stdout: slow, stderr: slow });
  await stream.ended;
  if (slow.writableLength > 0) await new Promise((resolve) => slow.once("drain", resolve));
  assert.equal(bytes, 64 * (64 << 10));
  assert.ok(held < 8 * (64 << 10), `${held} bytes were held in memory`);
});

test("how a stream can end", async () => {
  const endOf = async (handle: (peer: Peer) => void) => {
    await using link = await connected(handle);
    return await link.stream.ended;
  };
  assert.deepEqual(await endOf((peer) => peer.finish({ status: "Success" })), { kind: "exit", code: 0 });
  assert.deepEqual(
    await endOf((peer) => peer.finish({ status: "Failure", reason: "InternalError", message: "exec x: ENOENT" })),
    { kind: "failure", message: "exec x: ENOENT" },
  );
  assert.deepEqual(await endOf((peer) => peer.raw(Buffer.from([9, 1]))), {
    kind: "failure",
    message: "the server sent channel 9, which this protocol does not have",
  });
  assert.equal((await endOf((peer) => peer.terminate())).kind, "lost");
  assert.deepEqual(await endOf((peer) => peer.close(1011)), {
    kind: "lost",
    message: "the connection was lost: it was closed with code 1011",
  });
});

test("a stream that cannot be opened says where", async () => {
  const server = await streamServer((peer) => peer.exit(0), ["something.else"]);
  await using _ = { [Symbol.asyncDispose]: () => server.close() };
  const outputs = { stdout: new Sink(), stderr: new Sink() };
  await assert.rejects(
    openStream(server.base, outputs),
    (error) => error instanceof Failure && /cannot open the stream at 127\.0\.0\.1:\d+: /.test(error.message),
  );
  await assert.rejects(
    openStream("http://127.0.0.1:1/x", outputs),
    /cannot open the stream at 127\.0\.0\.1:1: .*ECONNREFUSED/,
  );
});

test("statuses that are not what they should be are failures, not exit codes", () => {
  assert.deepEqual(parseStatus(Buffer.from("not json")), { kind: "failure", message: "not json" });
  assert.deepEqual(parseStatus(Buffer.from('{"status":"Failure","reason":"NonZeroExitCode","message":"m"}')), {
    kind: "failure",
    message: "m",
  });
  assert.deepEqual(
    parseStatus(
      Buffer.from(
        '{"status":"Failure","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"1; rm"}]},"message":"m"}',
      ),
    ),
    { kind: "failure", message: "m" },
  );
});

test("detach keys", () => {
  assert.deepEqual([...parseDetachKeys("ctrl-p,ctrl-q")], [16, 17]);
  assert.deepEqual([...parseDetachKeys("ctrl-a,x,ctrl-[,ctrl-_")], [1, 120, 27, 31]);
  assert.equal(parseDetachKeys("").length, 0);
  for (const text of ["ctrl-1", "ab", "ctrl-p,", "é"]) assert.throws(() => parseDetachKeys(text), Failure, text);
});

test("the sequence is found wherever chunks are cut, and its beginning alone goes on to the container", () => {
  const feed = (...chunks: number[][]): [number[], boolean] => {
    const keys = new DetachKeys(Uint8Array.of(16, 17));
    const sent: number[] = [];
    for (const chunk of chunks) {
      const { forward, detached } = keys.feed(Uint8Array.from(chunk));
      sent.push(...forward);
      if (detached) return [sent, true];
    }
    return [sent, false];
  };
  assert.deepEqual(feed([1, 16, 17, 2]), [[1], true]);
  assert.deepEqual(feed([16], [17]), [[], true]);
  assert.deepEqual(feed([16, 16, 17]), [[16], true]);
  assert.deepEqual(feed([16], [5]), [[16, 5], false]);
  assert.deepEqual(feed([17, 16]), [[17], false]);
  const none = new DetachKeys(new Uint8Array());
  assert.deepEqual([...none.feed(Uint8Array.of(16, 17)).forward], [16, 17]);
});
